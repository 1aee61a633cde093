"""`serac train scope`, `train scope-start`, `export`, `calibrate`, `memory build|add|retract`,
`route`, `explain`: thin verbs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serac_core.config import load_params
from serac_core.edits.atomic import write_atomically
from serac_core.progress import tell
from serac_core.scope.queries import BadQueries, QueryFile

if TYPE_CHECKING:
    from serac_core.scope.live_memory import Changed

ParamsOption = Annotated[Path, typer.Option("--params", help="The settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
TrainingSetOption = Annotated[Path, typer.Option("--training-set", help="Folder of the folds.")]
ReleaseOption = Annotated[Path, typer.Option("--release", help="The release directory.")]
MemoryOption = Annotated[Path, typer.Option("--memory", help="Folder of the memory.")]
VariantOption = Annotated[str, typer.Option("--variant", help="Encoder graph: fp32, fp16, int8.")]
ProviderOption = Annotated[str, typer.Option("--provider", help="cpu or cuda.")]
CacheOption = Annotated[
    Path,
    typer.Option(
        "--cache-dir", envvar="SERAC_CACHE_DIR", help="Where checkpoints and keys are kept."
    ),
]
_PARAMS = Path("params.yaml")
_CACHE = Path(".serac/cache")

memory_app = typer.Typer(help="The edit memory: live edits, encoded.", no_args_is_help=True)


def train_scope(
    training_set: TrainingSetOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for model, cohort and log.")],
    params: ParamsOption = _PARAMS,
    cache_dir: CacheOption = _CACHE,
    as_json: JsonOption = False,
) -> None:
    """Train the scope classifier; goes on where an interrupted run stopped."""
    from serac_core.scope.training import train

    settings = load_params(params)
    figures = train(
        training_set,
        settings.models.encoder,
        out,
        settings.scope,
        start=settings.models.scope_start,
        seed=settings.seed,
        cache_dir=cache_dir,
    )
    _print_figures(figures, as_json)


def train_scope_start(
    out: Annotated[Path, typer.Option("--out", help="Folder for the changes and the log.")],
    world: Annotated[Path, typer.Option("--world", help="The wordings.")] = Path("data/world"),
    params: ParamsOption = _PARAMS,
    cache_dir: CacheOption = _CACHE,
    as_json: JsonOption = False,
) -> None:
    """Train what `train scope` begins with (a quarter of an hour on two cores; it is shipped)."""
    from serac_core.scope.pretraining import pretrain_scope

    figures = pretrain_scope(world, out, load_params(params), cache_dir=cache_dir)
    _print_figures(figures, as_json)


def export(
    model: Annotated[Path, typer.Option("--model", help="The trained encoder.")],
    training_set: TrainingSetOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for graphs and export.json.")],
    params: ParamsOption = _PARAMS,
    as_json: JsonOption = False,
) -> None:
    """Export the encoder to ONNX and measure parity with PyTorch."""
    from serac_core.scope.export import export_encoder

    report = export_encoder(model, training_set, out, load_params(params).export)
    if as_json:
        print(json.dumps(report, indent=1, sort_keys=True))
        return
    print(f"{'variant':<8} {'max |diff|':>12} {'least cosine':>13}")
    for variant, found in report["parity"].items():
        print(f"{variant:<8} {found['max_abs_diff']:>12.2e} {found['cosine_min']:>13.6f}")


def calibrate(
    encoder: Annotated[Path, typer.Option("--encoder", help="The exported encoder.")],
    training_set: TrainingSetOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for calibration.json and plots.")],
    target_false_route: Annotated[
        float | None,
        typer.Option(help="Share of unrelated queries that may be routed [default: params.yaml]."),
    ] = None,
    edits_in_memory: Annotated[
        int | None,
        typer.Option(min=0, help="With so many edits in memory [default: params.yaml]."),
    ] = None,
    params: ParamsOption = _PARAMS,
    as_json: JsonOption = False,
) -> None:
    """Set the scope threshold of each exported variant."""
    from serac_core.scope.calibration import calibrate as run
    from serac_core.scope.calibration_file import Abstention

    settings = load_params(params)
    target = target_false_route or settings.calibration.target_false_route
    stored = settings.calibration.edits_in_memory if edits_in_memory is None else edits_in_memory
    made = run(
        encoder,
        training_set,
        out,
        target,
        max_probes_routed=settings.calibration.max_probes_routed,
        misroute_cost=settings.calibration.misroute_cost,
        verifier_band=settings.calibration.verifier_band,
        edits_in_memory=stored,
        abstention=Abstention(settings.calibration.abstain_margin, settings.calibration.abstain),
        provider=settings.export.provider,
    )
    if as_json:
        print(json.dumps(made, indent=1, sort_keys=True))
        return
    print(f"{'variant':<8} {'threshold':>9} {'true route':>10} {'false route':>11} {'<= 95 %':>8}")
    for variant, found in made["variants"].items():
        print(
            f"{variant:<8} {found['threshold']:>9.4f} {found['true_route']:>10.4f} "
            f"{found['false_route']:>11.4f} {found['false_route_upper95']:>8.4f}"
        )


@memory_app.command("build")
def build_memory(
    encoder: Annotated[Path, typer.Option("--encoder", help="The exported encoder.")],
    edits: Annotated[Path, typer.Option("--edits", help="The live edits.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the memory.")],
    cache_dir: CacheOption = _CACHE,
    provider: ProviderOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Encode the live edits for every exported variant; only those not encoded before, and where
    edits were only added or taken away, as a change of the last memory."""
    from serac_core.scope.memory_update import build_live_memories

    held, encoded = build_live_memories(edits, encoder, out, cache_dir, provider=provider)
    if as_json:
        print(json.dumps({"edits": held, "encoded": encoded}))
        return
    counts = ", ".join(f"{variant}: {count}" for variant, count in encoded.items())
    print(f"{held} edits in {out}; newly encoded keys: {counts}")


@memory_app.command("add")
def add_to_memory(
    memory: MemoryOption,
    encoder: Annotated[Path, typer.Option("--encoder", help="The exported encoder.")],
    edits: Annotated[Path, typer.Option("--edits", help="The edits to add.")],
    provider: ProviderOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Add edits to a memory that may be in use; they replace those of their ids and those that
    they supersede."""
    from serac_core.edits.jsonl import read_edits
    from serac_core.scope.live_memory import LiveMemory
    from serac_core.scope.memory_store import exported_encoders

    live = LiveMemory.open(memory, list(exported_encoders(encoder, provider).values()))
    _print_change(live.add(read_edits(edits)), memory, len(live), as_json)


@memory_app.command("retract")
def retract_from_memory(
    memory: MemoryOption,
    ids: Annotated[list[str], typer.Option("--id", help="An edit's id; repeatable.")],
    as_json: JsonOption = False,
) -> None:
    """Remove edits from a memory that may be in use."""
    from serac_core.scope.live_memory import LiveMemory

    live = LiveMemory.open(memory)
    _print_change(live.retract(ids), memory, len(live), as_json)


def route(
    release: ReleaseOption,
    query: Annotated[list[str] | None, typer.Argument(help="What to route.")] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="JSON lines, each a string or with `query`.")
    ] = None,
    output_file: Annotated[
        Path | None, typer.Option("--output", help="JSON lines of decisions.")
    ] = None,
    variant: VariantOption = "fp32",
    provider: ProviderOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Decide to which edit, if any, each query goes.

    `--input` (gzip by the name `.gz`) is read, decided and written piece by piece, however long it
    is. Killed, the same command goes on: decisions are kept in OUTPUT.part until all are made.
    Bytes that are not UTF-8 are read as `?`; an empty query is out of scope.
    """
    from serac_core.scope.batch_routing import route_file, routed
    from serac_core.scope.router import Router, decision_line

    if bool(query) == (input_file is not None):
        raise BadQueries(
            "queries in both places" if query else "no query given",
            remedy="name either QUERYs or a file with --input",
        )
    if input_file is not None and output_file is not None:
        route_file(release, input_file, output_file, variant=variant, provider=provider, say=tell)
        return
    router = Router.load(release, variant, provider)
    if input_file is not None:
        queries = QueryFile(input_file)
        for decisions in routed(router, queries, queries, say=tell):
            print("\n".join(map(decision_line, decisions)), flush=True)
        return
    decisions = router.route(query or ())
    if output_file is not None:
        lines = (decision_line(decision) + "\n" for decision in decisions)
        write_atomically(output_file, map(str.encode, lines))
        return
    for decision in decisions:
        if as_json:
            print(decision_line(decision))
            continue
        where = f"edit {decision.edit_id}" if decision.in_scope else "base model"
        figures = f"score {decision.score:.4f}  threshold {decision.threshold:.4f}"
        print(_printable(f"{where}  {figures}  {decision.query}"))


def explain(
    release: ReleaseOption,
    query: Annotated[str, typer.Argument(help="The query to explain.")],
    variant: VariantOption = "fp32",
    provider: ProviderOption = "cpu",
    k: Annotated[int, typer.Option(min=1, help="How many edits to show.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Why a query goes where it goes: nearest edits, scores, threshold, margin, reason."""
    from serac_core.scope.explain import explain as run
    from serac_core.scope.router import Router

    found = run(Router.load(release, variant, provider), query, k)
    if as_json:
        print(json.dumps(found.as_dict()))
        return
    print(_printable(found.reason))
    for candidate in found.candidates:
        print(_printable(f"{candidate.score:8.4f}  {candidate.edit_id}  {candidate.prompt}"))


def _print_change(changed: Changed, memory: Path, edits: int, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(changed), "edits": edits}))
        return
    counts = ", ".join(f"{variant}: {count}" for variant, count in changed.encoded.items())
    print(
        f"{changed.added} added, {changed.removed} removed; {edits} edits in {memory}; newly "
        f"encoded keys: {counts}"
    )


def _print_figures(figures: dict[str, float], as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        print(f"{name:<16} {value:.4f}")


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
