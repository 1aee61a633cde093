"""One of the processes that :func:`serac_core.counterfactual.processes.launch` starts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from serac_core.config import CounterfactualConfig
from serac_core.errors import SeracError


def main(folder: Path) -> None:
    """Train as `request.json` says; leave the figures, or the error, beside it."""
    together = int(os.environ["LOCAL_WORLD_SIZE"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // together)))
    # After that: torch reads it when it is imported.
    from torch import distributed

    from serac_core.counterfactual.processes import is_main_process, write_error
    from serac_core.counterfactual.training import train

    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    request["config"] = CounterfactualConfig.model_validate(request["config"])
    try:
        figures = train(**request)
    except SeracError as error:
        write_error(error, folder / f"error-{os.environ['RANK']}.json")
        raise SystemExit(error.exit_code) from None
    if is_main_process():
        (folder / "figures.json").write_text(json.dumps(figures), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
