"""The verbs that run flows. They join `serac` by the entry point group `serac.commands`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable
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
    from flows.update_edits import UpdateOutcome

# Nothing phones home; a busy machine may need more than Prefect's 20 s for a temporary server.
_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}

_SHOWN_IDS = 20


def register(app: typer.Typer) -> None:
    """Add the verbs of this package to the command line."""
    app.command("retrain")(retrain)
    app.command("update-edits")(update_edits)
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
    prepare_process()
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


def update_edits(
    checkout: Annotated[
        Path, typer.Option(help="A folder of the repository whose champion is updated.")
    ] = Path(),
    file: Annotated[
        list[Path] | None,
        typer.Option(help="A file of edits and retractions; repeatable [default: the inbox]."),
    ] = None,
    retract: Annotated[
        list[str] | None,
        typer.Option(help="Id of an edit to take back at once; repeatable. Goes by the inbox too."),
    ] = None,
    revision: Annotated[
        str, typer.Option(help="Or: a commit of the checkout whose edit set is to be served.")
    ] = "",
    on_bad_record: Annotated[
        str | None,
        typer.Option(
            help="release-others: a bad record keeps no good one back; stop: nothing is released "
            "[default: update.on_bad_record of params.yaml]."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Release new, superseding and retracted edits without training, as a Prefect flow.

    They are added to the champion, whatever is checked out or uncommitted here. Needs no Prefect
    server: a temporary one is started unless PREFECT_API_URL names one.
    """
    if (file or retract) and revision:
        raise typer.BadParameter("--revision and --file or --retract exclude each other")
    if on_bad_record not in (None, "release-others", "stop"):
        raise typer.BadParameter(
            f"{on_bad_record!r} is neither release-others nor stop", param_hint="--on-bad-record"
        )
    started = time.monotonic()
    prepare_process()
    from flows.update_edits import update_edits as flow

    files = [path.absolute() for path in file or ()]
    if retract:
        from serac_core.config import load_params
        from serac_core.workspace.inbox import drop_retractions
        from serac_core.workspace.runs import find_checkout

        root = find_checkout(checkout)
        settings = load_params(root / "params.yaml").update
        files.append(drop_retractions(root / settings.inbox, retract))
    outcome: UpdateOutcome = run_flow(
        flow,
        checkout=str(checkout),
        files=[str(path) for path in files],
        revision=revision,
        on_bad_record=on_bad_record,
    )
    if as_json:
        print(json.dumps(asdict(outcome), default=str))
    else:
        print_update(outcome, time.monotonic() - started)


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
    prepare_process()
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


def prepare_process() -> None:
    """Settings of Prefect that are not set yet; children end with this process."""
    os.environ.update({name: os.environ.get(name, value) for name, value in _SETTINGS.items()})
    tether_descendants()


def run_flow(flow: Any, **parameters: object) -> Any:
    """Run a flow in this process.

    Raises
    ------
    SeracError
        What the flow failed with.
    PrefectUnreachable
    """
    import httpx

    try:
        state: Any = flow(**parameters, return_state=True)
    except (httpx.HTTPError, RuntimeError) as error:
        raise PrefectUnreachable(
            f"Prefect does not answer: {error}",
            remedy="start the server that PREFECT_API_URL names, or unset it for a temporary one",
        ) from error
    result: object = state.result(raise_on_failure=False)
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
    _print_take_over(outcome.copy, outcome.published_to)


def print_update(outcome: UpdateOutcome, seconds: float) -> None:
    """What became of each edit, gate table, release id, and what to type next."""
    from serac_core.release.gate import render_table

    for name in ("added", "superseded", "retracted", "unchanged"):
        ids = getattr(outcome, name)
        for edit_id in ids[:_SHOWN_IDS]:
            print(f"{name:<10}  {edit_id}")
        if len(ids) > _SHOWN_IDS:
            print(f"{name:<10}  and {len(ids) - _SHOWN_IDS} more")
    for rejection in outcome.rejected:
        for reason in rejection["reasons"]:
            where = f"line {reason['line']}" if reason["line"] else "the file"
            where += f", {reason['id']}" if reason["id"] else ""
            print(
                f"{'rejected':<10}  {rejection['file']}, {where}: {reason['rule']}: "
                f"{reason['field']}: {reason['detail']}"
            )
        print(f"{'':<10}  the file and its reasons: {rejection['place']}")
    if outcome.gate:
        print(f"\n{render_table(outcome.gate)}")
    if not outcome.copy:
        print("No file of edits is in the inbox; `serac update-edits --file F` takes one.")
    elif not outcome.changed:
        print(f"\nNothing new, nothing published ({seconds:.0f} s).")
        print(f"Champion: {outcome.release}, ready in {outcome.copy}")
    else:
        print(f"\nReleased {outcome.release} in {seconds:.0f} s, ready in {outcome.copy}")
        print("Back to the one before, if need be:")
        print(f"  {_program('serac')} rollback")
        print("Take it over into your branch, when you like:")
        _print_take_over(outcome.copy, outcome.published_to)


def _print_take_over(copy: Path, published_to: str) -> None:
    if copy.is_relative_to(published_to):
        print(f"  git merge --ff-only releases && {_program('dvc')} pull")
    else:
        print(f"  git fetch --tags {published_to} releases")
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
