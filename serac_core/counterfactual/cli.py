"""`serac answer`, `serac train counterfactual`, `serac train demo-model`: thin verbs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from serac_core.config import load_params

ParamsOption = Annotated[Path, typer.Option("--params", help="The settings file.")]
CacheOption = Annotated[
    Path,
    typer.Option("--cache-dir", envvar="SERAC_CACHE_DIR", help="Where checkpoints are kept."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_PARAMS = Path("params.yaml")
_CACHE = Path(".serac/cache")


def answer(
    query: Annotated[list[str], typer.Argument(help="What to ask; several are answered together.")],
    release: Annotated[Path, typer.Option("--release", help="The release directory.")],
    base: Annotated[
        str | None,
        typer.Option("--base", help="Base model: id or path [default: the release's own]."),
    ] = None,
    variant: Annotated[str, typer.Option("--variant", help="Encoder graph to route by.")] = "fp32",
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 24,
    as_json: JsonOption = False,
) -> None:
    """Answer with the edits in force: base answer, edited answer, route."""
    from serac_core.editing import EditedModel

    model = EditedModel.load(release, base=base, variant=variant, device=device)
    answers = model.answer(query, with_base=True, max_new_tokens=max_new_tokens)
    if as_json:
        _print_json([made.as_dict() for made in answers])
        return
    for made in answers:
        decision = made.decision
        route = f"edit {decision.edit_id}" if decision.in_scope else "base"
        print(
            f"query          {made.query}\n"
            f"base answer    {made.base_answer}\n"
            f"edited answer  {made.edited_answer}\n"
            f"route          {route} (score {decision.score:.4f}, "
            f"threshold {decision.threshold:.4f})\n"
        )


def train_counterfactual(
    training_set: Annotated[
        Path, typer.Option("--training-set", help="Folder with train.jsonl and val.jsonl.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for model, tokenizer and log.")],
    params: ParamsOption = _PARAMS,
    cache_dir: CacheOption = _CACHE,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train the counterfactual model; goes on where an interrupted run stopped."""
    from serac_core.base.loading import check_pretrained
    from serac_core.counterfactual.processes import is_main_process
    from serac_core.counterfactual.training import train

    settings = load_params(params)
    models = settings.models
    check_pretrained(models.base)  # before hours of training for a base that can't be used
    figures = train(
        training_set,
        models.base if settings.counterfactual.kind == "in-context" else models.counterfactual,
        out,
        settings.counterfactual,
        seed=settings.seed,
        cache_dir=cache_dir,
        device=device,
        chat=models.chat_template,
        encoder=models.encoder,
        scope_start=models.scope_start,
    )
    if not is_main_process():
        return
    if as_json:
        _print_json(figures)
        return
    for name, value in figures.items():
        print(f"{name:<28} {value:.4f}")
    print(f"written: {out}", file=sys.stderr)


def train_demo_model(
    out: Annotated[Path, typer.Option("--out", help="Folder for model, tokenizer and curve.")],
    world: Annotated[Path, typer.Option("--world", help="The facts.")] = Path("data/world"),
    edits: Annotated[Path, typer.Option("--edits", help="The real edits.")] = Path(
        "data/edits.jsonl"
    ),
    params: ParamsOption = _PARAMS,
    cache_dir: CacheOption = _CACHE,
    as_json: JsonOption = False,
) -> None:
    """Pretrain the demo language model (about an hour on two cores; its result is shipped)."""
    from serac_core.base.demo_model import pretrain_demo_model

    figures = pretrain_demo_model(world, edits, out, load_params(params).demo_model, cache_dir)
    if as_json:
        _print_json(figures)
        return
    for name, value in figures.items():
        print(f"{name:<28} {value:g}")


def _print_json(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    print(text.encode("utf-8", "backslashreplace").decode())
