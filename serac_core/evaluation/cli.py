"""`serac evaluate`, `gate` and `benchmark`: thin verbs over the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from serac_core.config import load_params
from serac_core.progress import tell

ParamsOption = Annotated[Path, typer.Option("--params", help="The settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DEFAULT_PARAMS = Path("params.yaml")

benchmark_app = typer.Typer(help="Quality and speed by memory size.", no_args_is_help=True)


def evaluate(
    part: Annotated[
        Literal["model", "live"],
        typer.Option(help="model: edits never trained on; live: the edits that are served."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for metrics, items, plots and figures.")],
    training_set: Annotated[Path, typer.Option(help="The training set.")] = Path("data/training"),
    live_edits: Annotated[Path, typer.Option(help="The live edits.")] = Path(
        "data/live/edits.jsonl"
    ),
    encoder: Annotated[Path, typer.Option(help="The exported encoder.")] = Path("build/scope/onnx"),
    scope_model: Annotated[Path, typer.Option(help="The encoder before export.")] = Path(
        "build/scope/model"
    ),
    calibration: Annotated[Path, typer.Option(help="Thresholds.")] = Path(
        "build/scope/calibration"
    ),
    memory: Annotated[Path, typer.Option(help="The edit memory.")] = Path("build/memory"),
    counterfactual: Annotated[Path, typer.Option(help="The counterfactual model.")] = Path(
        "build/counterfactual"
    ),
    cache_dir: Annotated[
        Path, typer.Option(envvar="SERAC_CACHE_DIR", help="Where the base's answers are kept.")
    ] = Path(".serac/cache"),
    params: ParamsOption = DEFAULT_PARAMS,
    as_json: JsonOption = False,
) -> None:
    """Evaluate through the exported graph: metrics JSON, one row an item, plots."""
    from serac_core.evaluation.evaluate import EvaluationInputs, evaluate_live, evaluate_model

    inputs = EvaluationInputs(
        training_set=training_set,
        live_edits=live_edits,
        encoder=encoder,
        scope_model=scope_model,
        calibration=calibration,
        memory=memory,
        counterfactual=counterfactual,
    )
    run = evaluate_model if part == "model" else evaluate_live
    metrics = run(inputs, load_params(params), out, cache_dir, tell)
    if as_json:
        print(json.dumps(metrics, indent=1, sort_keys=True))
        return
    for line in _metric_lines(metrics):
        print(line)
    tell(f"written to {out}")


def gate(
    release: Annotated[Path, typer.Option(help="The candidate's release directory.")] = Path(
        "release"
    ),
    champion: Annotated[
        Path | None,
        typer.Option(help="The champion's release directory; none: there is no champion yet."),
    ] = None,
    params: ParamsOption = DEFAULT_PARAMS,
    as_json: JsonOption = False,
) -> None:
    """Judge a release: checks, values, bounds, verdicts. Exit code 1 when the gate is closed."""
    from serac_core.release.gate import gate_release, render_table

    result = gate_release(release, champion, load_params(params).gate)
    print(json.dumps(result.as_dict(), indent=1) if as_json else render_table(result))
    if not result.passed:
        raise typer.Exit(1)


def drift(
    release: Annotated[Path, typer.Option(help="The release directory that routers serve.")],
    decisions: Annotated[Path, typer.Option(help="Folder of the routers' decision logs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for drift.json and the plot.")],
    name: Annotated[
        str,
        typer.Option(help="The release in the logs: by default serac@FOLDER or FOLDER."),
    ] = "",
    variant: Annotated[str, typer.Option(help="Encoder graph: fp32, fp16, int8.")] = "fp32",
    params: ParamsOption = DEFAULT_PARAMS,
    as_json: JsonOption = False,
) -> None:
    """Compare routers' decisions with the release's evaluation. Exit code 1 on a drift."""
    from datetime import UTC, datetime

    from serac_core.evaluation.drift import drift_report

    report = drift_report(
        release,
        decisions,
        out,
        load_params(params).drift,
        name=name or f"serac@{release.resolve().name}",
        now=datetime.now(UTC),
        variant=variant,
    )
    if as_json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        for row in report.rows():
            print(f"{row['figure']:<40} {row['value']:>14} {row['evaluation']:>10}")
        why = "no drift"
        if report.too_few:
            why = f"too few decisions of {report.release} in this time to tell"
        print("\n".join(f"drift: {reason}" for reason in report.reasons) or why)
    if report.drifted:
        raise typer.Exit(1)


@benchmark_app.command("quality")
def benchmark_quality(
    edits: Annotated[
        list[Path], typer.Option(help="JSONL file of edits to store and ask about; repeatable.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what was found.")],
    train: Annotated[
        list[Path] | None,
        typer.Option(help="JSONL file of edits to train a classifier on first; repeatable."),
    ] = None,
    release: Annotated[
        Path | None, typer.Option(help="Or: the release whose classifier is scored.")
    ] = None,
    sizes: Annotated[str, typer.Option(help="Edits in memory, by commas.")] = "1,10,100,1000",
    beside: Annotated[
        list[Path] | None,
        typer.Option(help="JSONL file of edits that only fill the memory; repeatable."),
    ] = None,
    traffic: Annotated[
        Path | None, typer.Option(help="JSON lines of queries that no edit is meant by.")
    ] = None,
    train_traffic: Annotated[
        Path | None, typer.Option(help="The same, to train and calibrate on.")
    ] = None,
    answers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Edits of each size whose questions are answered too, by base and counterfactual "
            "model; 0: routing alone.",
        ),
    ] = 0,
    base: Annotated[
        str | None,
        typer.Option(help="Base model: id or path [default: models.base of the settings]."),
    ] = None,
    variant: Annotated[str, typer.Option(help="Encoder graph: fp32, fp16, int8.")] = "fp32",
    provider: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the order in which edits fill the memory.")] = 17,
    world: Annotated[Path, typer.Option(help="Whose everyday messages calibrate.")] = Path(
        "data/world"
    ),
    cache_dir: Annotated[
        Path, typer.Option(envvar="SERAC_CACHE_DIR", help="Where checkpoints are kept.")
    ] = Path(".serac/cache"),
    params: ParamsOption = DEFAULT_PARAMS,
    as_json: JsonOption = False,
) -> None:
    """Quality on edits never seen in training, at each memory size.

    Either of a release, or of models that are trained on other edits first (by `own_edits` of
    params.yaml, calibrated for the largest size; kept in the folder `trained` of --out; the
    counterfactual model only where --answers asks for it). Other formats come in through `serac
    edits import`. Near misses that truly fall under another stored edit are set aside; the last
    columns count them in.
    """
    from serac_core.evaluation.benchmark import benchmark_quality as run
    from serac_core.scope.queries import read_queries

    wanted = _sizes(sizes)
    settings = load_params(params) if train or answers else None
    if release is None and train and settings:
        from serac_core.evaluation.own_edits import train_on_edits

        release = train_on_edits(
            train,
            out / "trained",
            settings,
            traffic=list(read_queries(train_traffic)) if train_traffic else (),
            edits_in_memory=max(wanted),
            answers=answers > 0,
            world=world,
            cache_dir=cache_dir,
            say=tell,
        )
    elif release is None or train:
        raise typer.BadParameter("name either edits to --train on or a --release")
    metrics = run(
        release,
        edits,
        wanted,
        out,
        beside=beside or (),
        traffic=list(read_queries(traffic)) if traffic else (),
        variant=variant,
        provider=provider,
        seed=seed,
        answers=answers,
        base=base,
        params=settings,
        cache_dir=cache_dir,
        say=tell,
    )
    if as_json:
        print(json.dumps(metrics, indent=1, sort_keys=True))
        return
    print(f"{'edits':>7}  {'kind':<14} {'right':>7}  {'95 %':<16} {'n':>6}  {'all':>7} {'n':>6}")
    for size, kinds in metrics["sizes"].items():
        for kind, row in kinds.items():
            interval = f"{row['low']:.4f} to {row['high']:.4f}"
            print(
                f"{size:>7}  {kind:<14} {row['right']:7.4f}  {interval:<16} {row['n']:6d}  "
                f"{row['right_all']:7.4f} {row['n_all']:6d}"
            )
    for size, found in metrics.get("answers", {}).items():
        print(f"\nanswers, {size} edits in memory")
        print("\n".join(_metric_lines(found)))
    tell(f"written to {out}")


@benchmark_app.command("speed")
def benchmark_speed(
    release: Annotated[Path, typer.Option(help="The release directory.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what was found.")],
    edits: Annotated[
        list[Path] | None,
        typer.Option(help="JSONL file of edits to store; repeatable [default: the release's]."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help="JSON lines of queries that no edit is meant by [default: everyday]."),
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="Edits in memory, by commas.")
    ] = "10,100,1000,10000,100000,1000000",
    variant: Annotated[str, typer.Option(help="Encoder graph: fp32, fp16, int8.")] = "fp32",
    provider: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Of one encoder pass [default: ONNX Runtime's choice]."),
    ] = None,
    baseline_at: Annotated[
        str | None,
        typer.Option(
            help="Sizes at which encoding the memory anew is measured, by commas "
            "[default: 10,100,1000, as far as measured]."
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Queries at each size.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of which edits are stored first and asked.")] = 17,
    as_json: JsonOption = False,
) -> None:
    """Routing latency, throughput and memory against the bare encoder, in one run.

    Of the queries 90 % name no stored subject, 5 % name one and ask something else, 5 % are
    rephrasings of stored edits. Where sizes exceed the edits, more are made of them: their prompts
    about names made of their subjects.
    """
    from serac_core.evaluation.speed import benchmark_speed as run
    from serac_core.evaluation.speed_table import speed_table
    from serac_core.scope.queries import read_queries

    found = run(
        release,
        _sizes(sizes),
        out,
        edit_sets=edits or (),
        far=list(read_queries(queries)) if queries else (),
        variant=variant,
        provider=provider,
        threads=threads,
        baseline_at=None if baseline_at is None else _sizes(baseline_at),
        count=count,
        seed=seed,
        say=tell,
    )
    print(json.dumps(found, indent=1, sort_keys=True) if as_json else "\n".join(speed_table(found)))
    tell(f"written to {out}")


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise typer.BadParameter(f"{text!r}: whole numbers above 0 are needed, as in 1,10,100")
    return sizes


def _metric_lines(metrics: dict[str, Any]) -> list[str]:
    shown = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    width = max(map(len, shown), default=0)
    lines = []
    for name, value in shown.items():
        interval = metrics["intervals"].get(name)
        tail = (
            f"  {interval['low']:.4f} to {interval['high']:.4f}  n={interval['n']}"
            if interval
            else ""
        )
        lines.append(f"{name:<{width}}  {value:.4f}{tail}")
    return lines
