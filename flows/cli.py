"""The verbs that run flows. They join `serac` by the entry point group `serac.commands`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.deploy import PrefectUnreachable
from flows.operations_cli import deploy, up, worker
from serac_core.release.finding import Finding, further_checks
from serac_core.tether import tether_descendants

if TYPE_CHECKING:
    from flows.retrain import Outcome

# Nothing phones home; a busy machine may need more than Prefect's 20 s for a temporary server.
_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}


def register(app: typer.Typer) -> None:
    """Add the verbs of this package to the command line."""
    app.command("retrain")(retrain)
    app.command("route-batch")(route_batch)
    for verb in (up, deploy, worker):
        app.command()(verb)
    further_checks.append(_examine_prefect)


def _examine_prefect(checkout: Path) -> Iterable[Finding]:
    from flows.doctor import examine_prefect

    return examine_prefect()


def retrain(
    checkout: Annotated[
        Path, typer.Option(help="A folder of the repository to retrain from.")
    ] = Path(),
    include_uncommitted: Annotated[
        bool, typer.Option(help="Take uncommitted changes of inputs along, as a snapshot.")
    ] = False,
    ramp: Annotated[
        str | None,
        typer.Option(
            help="Widths of the live edits to go through, e.g. 50,200,all: each passes the gate "
            "before the next begins [default: retrain.ramp of params.yaml]."
        ),
    ] = None,
    train_on: Annotated[
        str | None,
        typer.Option(
            help="Deployment whose workers train, train-on-gpu/train-on-gpu; empty: this process "
            "[default: retrain.train_on of params.yaml]."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Retrain, judge and publish a release, as a Prefect flow.

    Needs no Prefect server: a temporary one is started unless PREFECT_API_URL names one.
    """
    started = time.monotonic()
    apply_settings()
    tether_descendants()
    from flows.retrain import retrain as flow

    outcome: Outcome = run_flow(
        flow,
        checkout=str(checkout),
        include_uncommitted=include_uncommitted,
        ramp=ramp,
        train_on=train_on,
    )
    if as_json:
        print(json.dumps(asdict(outcome), default=str))
    else:
        print_outcome(outcome, time.monotonic() - started)


def route_batch(
    release: Annotated[Path, typer.Option("--release", help="The release directory.")],
    source: Annotated[
        Path, typer.Option("--input", help="JSON lines, each a string or with `query`.")
    ],
    output: Annotated[Path, typer.Option("--output", help="JSON lines of decisions.")],
    deployment: Annotated[
        str, typer.Option(help="Whose workers route.")
    ] = "route-shard/route-shard",
    shards: Annotated[int, typer.Option(min=0, help="Parts; 0: as many as there are workers.")] = 0,
    variant: Annotated[str, typer.Option(help="Encoder graph: fp32, fp16, int8.")] = "fp32",
    provider: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each worker's encoder [default: all].")
    ] = None,
) -> None:
    """Route a file of queries by the workers of a Prefect deployment, with the bytes of `route`.

    Release, input and output lie on storage that all workers share. The same command after a kill
    goes on. Same variant, provider and threads give the same bytes on like machines.
    """
    apply_settings()
    from flows.route_batch import route_batch as flow

    arguments: dict[str, Any] = {
        "release": str(release),
        "source": str(source),
        "output": str(output),
        "deployment": deployment,
        "shards": shards,
        "variant": variant,
        "provider": provider,
        "threads": threads,
    }
    print(run_flow(flow, **arguments))


def apply_settings() -> None:
    """Before Prefect is imported: it reads its settings then."""
    os.environ.update({name: os.environ.get(name, value) for name, value in _SETTINGS.items()})


def run_flow(flow: Callable[..., Any], **arguments: Any) -> Any:
    """Run a flow in this process; what it completed with.

    Raises
    ------
    SeracError
        What the flow failed with.
    PrefectUnreachable
    """
    import httpx

    try:
        state: Any = flow(**arguments, return_state=True)
    except (httpx.HTTPError, RuntimeError) as error:
        raise PrefectUnreachable(
            f"Prefect does not answer: {error}",
            remedy="start the server that PREFECT_API_URL names, or unset it for a temporary one",
        ) from error
    result = state.result(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    return result


def print_outcome(outcome: Outcome, seconds: float) -> None:
    """Metrics, widths, gate table, release id, and what to type next."""
    from serac_core.release.gate import render_table
    from serac_core.release.verdict import metric_rows
    from serac_core.release.widths import render_widths

    rows = metric_rows(outcome.metrics)
    width = max((len(row["metric"]) for row in rows), default=0)
    for row in rows:
        interval = f"  {row['95 %']}  n={row['n']}" if row["95 %"] else ""
        print(f"{row['metric']:<{width}}  {row['value']:<7}{interval}".rstrip())
    if outcome.widths:
        print(f"\n{render_widths(outcome.widths)}")
    if outcome.gate:
        print(f"\n{render_table(outcome.gate)}")
    if not outcome.changed:
        print(f"\nNothing changed since the last release, nothing published ({seconds:.0f} s).")
        print(f"Champion: {outcome.release}, ready in {outcome.copy}")
        return
    print(f"\nReleased {outcome.release} in {seconds:.0f} s, ready in {outcome.copy}")
    print("Ask it:")
    for query in _questions(outcome.copy):
        print(f"  {_program('serac')} answer --release {outcome.copy} {shlex.quote(query)}")
    print("Take it over into your branch:")
    if outcome.snapshot_of:
        print(f"  git stash push -- {' '.join(outcome.snapshot_of)}   # they are in the release")
    if outcome.copy.is_relative_to(outcome.published_to):
        print(f"  git merge --ff-only releases && {_program('dvc')} pull")
    else:
        print(f"  git fetch --tags {outcome.published_to} releases")
        print(f"  git merge --ff-only FETCH_HEAD && {_program('dvc')} pull")
    sys.stdout.flush()


def _questions(release: Path) -> list[str]:
    """What to ask a release: a rephrasing of its newest edit, and a near miss of it."""
    from serac_core.edits import read_edits

    edits = [edit for edit in read_edits(release / "edits.jsonl") if edit.rephrase_prompts]
    return [
        query
        for edit in edits[-1:]
        for query in (edit.rephrase_prompts[0], *(probe.prompt for probe in edit.locality[:1]))
    ]


def _program(name: str) -> str:
    """How to call it from this shell: by name, or by path where no environment is active."""
    beside = Path(sys.executable).parent / name
    return name if shutil.which(name) or not beside.exists() else str(beside)
