"""All deployments served by this one process, without work pools and workers, until Ctrl-C.

    python deploy/serve.py [CHECKOUT]

The Prefect server that PREFECT_API_URL names runs elsewhere. `serac up` starts one too, keeps
workers running and ends what a lost worker leaves behind: it is what most want on one machine.
"""

import os
import sys

from prefect import serve

from flows.deployments import read_deployments
from serac_core.workspace.runs import find_checkout

if __name__ == "__main__":
    os.chdir(find_checkout(sys.argv[1] if len(sys.argv) > 1 else "."))
    serve(*read_deployments(pools=False))
