"""`serac up`, `serac deploy`, `serac worker`: thin verbs over the operation of the flows."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from serac_core.progress import tell

CronOption = Annotated[
    str | None,
    typer.Option(
        help="When retrain runs, five fields as in '0 3 * * *'; empty: never by itself "
        "[default: deploy/prefect.yaml's]."
    ),
]
TimezoneOption = Annotated[
    str | None, typer.Option(help="Time zone of --cron, e.g. Europe/Berlin (default: UTC).")
]
SlotsOption = Annotated[
    int, typer.Option(min=1, help="Training stages at the same time: as many as there are GPUs.")
]


def up(
    checkout: Annotated[Path, typer.Option(help="A folder of the repository.")] = Path(),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the Prefect server.")] = 4200,
    host: Annotated[
        str, typer.Option(help="Where the server listens; it asks for no password.")
    ] = "127.0.0.1",
    home: Annotated[
        Path | None, typer.Option(help="Prefect's folder (default: .serac/prefect).")
    ] = None,
    cron: CronOption = None,
    timezone: TimezoneOption = None,
    training_slots: SlotsOption = 1,
) -> None:
    """Operate on this machine: Prefect server, deployments and two workers, until Ctrl-C."""
    from flows.up import make_site, run_site
    from serac_core.workspace.runs import find_checkout

    site = make_site(find_checkout(checkout), home, host, port)
    run_site(site, cron=cron, timezone=timezone, training_slots=training_slots, say=tell)


def deploy(
    cron: CronOption = None,
    timezone: TimezoneOption = None,
    training_slots: SlotsOption = 2,
    infrastructure: Annotated[
        Literal["process", "docker", "kubernetes"],
        typer.Option(help="What the pools start runs as."),
    ] = "process",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make work pools, limits, deployments and automations on the server of PREFECT_API_URL."""
    from flows.deploy import deploy as make

    done = make(
        cron=cron, timezone=timezone, training_slots=training_slots, infrastructure=infrastructure
    )
    print(json.dumps(asdict(done)) if as_json else "\n".join(done.lines()))


def worker(
    pool: Annotated[str, typer.Option(help="The work pool: serac-cpu or serac-gpu.")],
    name: Annotated[str, typer.Option(help="The worker's own name (default: host and pool).")] = "",
    checkout: Annotated[
        Path | None,
        typer.Option(help="The repository's folder (default: SERAC_CHECKOUT, or here)."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Runs at the same time (default: all that come).")
    ] = None,
) -> None:
    """Work for a process pool of the server that PREFECT_API_URL names, until Ctrl-C.

    Its runs' processes end with it, even by SIGKILL; a worker of the same name that follows
    tells the server so.
    """
    from flows.deploy import needs_server
    from flows.worker_process import work

    folder = checkout or Path(os.environ.get("SERAC_CHECKOUT", ""))
    os.environ["SERAC_CHECKOUT"] = str(folder.absolute())
    needs_server(work)(pool, name or f"{socket.gethostname()}-{pool}", limit=limit, say=tell)
