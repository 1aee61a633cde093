"""Training of the counterfactual model: from a training set to a folder that answers.

All weights are trained (`finetuned`), or an adapter that is merged into them (`lora`), or nothing:
`in-context` writes a folder that says so, and measures how the base model reads the edits.

Figures of this stage condition on the *gold* edit and send no query the wrong way; those through
the router come from the evaluation:

- `edit/acc_train`, `edit/acc_val`: token accuracy on the edit prompts (EasyEdit's definition);
- `edit/exact_match_*`: the whole answer right, on the edit prompts; `generalization_*`: on the
  rephrasings;
- `edit/yes_no_*`, where `counterfactual.yes_no_share` trains it: whether the edit says this or
  that, answered right; with its own answer and with another, half of them denying, in frames kept
  from training;
- `reader/yes_val`, `reader/no_val`, where `counterfactual.reader_steps` trains a reader: the same
  of its answers, by the right one; `reader/ordinary_val`: how many prompts and rephrasings it
  takes for yes/no questions;
- `edit/exact_match_before`: on the edits of `val`, of the model that training starts from, so
  that one sees what fine-tuning adds;
- `acc/pre_*`, `acc/post_*`: token accuracy on the locality probes that have a ground truth, of
  the model that training starts from (the base model, where both are the same, as by default).
  With gold routing every probe goes to the base, so post equals pre.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING

from serac_core.base.chat import ChatUse
from serac_core.base.language_model import LanguageModel, TextTooLong
from serac_core.base.loading import Device, stored_dtype
from serac_core.config import CounterfactualConfig
from serac_core.counterfactual.description import Description, write_description
from serac_core.counterfactual.examples import TrainingExamples
from serac_core.counterfactual.lora import adapt
from serac_core.counterfactual.model import CounterfactualModel, format_target
from serac_core.counterfactual.processes import join, launch
from serac_core.counterfactual.reader_training import (
    READER_SETTINGS,
    add_reader,
    make_reader,
    reader_figures,
)
from serac_core.counterfactual.training_log import TrainingLog
from serac_core.edits.atomic import folder_aside
from serac_core.edits.jsonl import read_edits
from serac_core.edits.record import Edit
from serac_core.edits.yes_no import rephrasings_of, yes_no_questions
from serac_core.errors import SeracError
from serac_core.progress import tell
from serac_core.scope.loading import PACKAGED

if TYPE_CHECKING:
    import torch
    from transformers import TrainerState

_FORMAT = 3  # of the examples and of the input; part of the key of the checkpoints
_SAMPLE = 100  # edits, rephrasings and probes of a fold that are measured while training
_FINAL_SAMPLE = 1000  # edits of a fold that are measured at the end; the evaluation takes all
# They add a step's numbers up in another order and change nothing else. So a training that ran
# out of memory, or moves to a machine with other GPUs, goes on from its checkpoints under new
# ones. Not among them: `precision`, which rounds every product.
_HOW_A_STEP_IS_COMPUTED = frozenset(
    {
        "gradient_accumulation",
        "gradient_checkpointing",
        "loader_workers",
        "process_timeout",
        "processes",
    }
)


class EmptyTrainingSet(SeracError):
    """A fold of the training set has no edit."""


def train(
    training_set: str | Path,
    start_from: str,
    out: str | Path,
    config: CounterfactualConfig,
    *,
    seed: int = 17,
    cache_dir: str | Path = ".serac/cache",
    device: Device = "auto",
    chat: ChatUse = "auto",
    encoder: str = PACKAGED,
    scope_start: str = "",
    after_step: Callable[[int, CounterfactualModel], None] | None = None,
) -> dict[str, float]:
    """Train a causal or seq2seq model on `train.jsonl` and write it to `out`.

    Resumable: killed at any moment and started again with the same inputs, it goes on from the
    last checkpoint in `<cache_dir>/counterfactual-<key>` and ends with the same weights. The
    weights with the best `edit/acc_val` are kept, stored in the type that they came in.

    Called in several processes by a launcher (`accelerate launch`, `torchrun`), or with
    `config.processes` above one, it shares each step's batch among them: the global batch, its
    order and what the loss is divided by stay the same. The main process alone writes.

    Parameters
    ----------
    training_set:
        Folder with `train.jsonl` and `val.jsonl`.
    start_from:
        Hugging Face id or path of the model that is trained; for the kind `in-context`, of the
        base model.
    out:
        Folder: model, tokenizer, `counterfactual.json`, `log.jsonl`, `reader/`; of the kind
        `in-context` no model. Complete or absent.
    chat:
        Whether the model reads its input through its tokenizer's chat template.
    encoder, scope_start:
        What the reader begins with; see :func:`serac_core.scope.start.load_begun`.
    after_step:
        Called with the number of each step, from 1, and the model as it is then; not where
        `counterfactual.processes` starts the processes that train.

    Returns
    -------
    dict
        The last line of the log: every figure, measured on the weights as stored.

    Raises
    ------
    UnreadableEdits, EmptyTrainingSet, EmptyTarget, TextTooLong, NothingToAdapt, UnevenBatch,
    PrecisionUnavailable, NoGradientCheckpointing, UnsupportedLaunch
        And what loading a :class:`LanguageModel` raises: before any training.
    NonFiniteTraining, OutOfMemory, LauncherGone, ProcessesFailed, UnwritableOutput
    """
    from transformers import set_seed

    from serac_core.counterfactual.trainer import AfterStep, CounterfactualTrainer

    processes = join(device, config.process_timeout)
    if processes.count == 1 and config.processes > 1:
        request = {
            "training_set": str(training_set),
            "start_from": start_from,
            "out": str(out),
            "config": config.model_dump(),
            "seed": seed,
            "cache_dir": str(cache_dir),
            "device": device,
            "chat": chat,
            "encoder": encoder,
            "scope_start": scope_start,
        }
        return launch(config.processes, request)
    device = processes.device or device
    folds = {name: _read_fold(Path(training_set) / f"{name}.jsonl") for name in ("train", "val")}
    if config.kind == "in-context":
        model = CounterfactualModel(
            LanguageModel.load(start_from, device, chat=chat), in_context=True
        )
    else:
        model = CounterfactualModel.load(start_from, device, "float32", chat=chat)
    for edits in folds.values():
        _check(model, edits, config)
    reader = None
    if config.reader_steps:
        cache = Path(cache_dir)

        def read() -> Path:
            return make_reader(folds["train"], encoder, scope_start, config, seed, cache)

        reader = processes.from_main(read)
    described = Description(kind=config.kind, chat_template=model.language_model.chat is not None)
    key = _content_key(Path(training_set), start_from, config, seed, described)
    folder = Path(cache_dir) / f"counterfactual-{key}"
    if described.kind == "in-context":
        log = TrainingLog(folder / "log.jsonl", 0)
        return _measure_in_context(model, folds, out, described, reader, log, seed)
    kept_dtype = stored_dtype(start_from)
    log = TrainingLog(folder / "log.jsonl", config.max_steps)
    if processes.is_main:
        together = f" in {processes.count} processes" if processes.count > 1 else ""
        tell(
            f"counterfactual model from {start_from} on {model.language_model.model.device}"
            f"{together}, {len(folds['train'])} edits; checkpoints and log in {folder}"
        )

    set_seed(seed)
    network = model.language_model.model
    trained = adapt(network, config, start_from) if config.kind == "lora" else network
    examples = TrainingExamples(
        folds["train"],
        model.language_model,
        steps=config.max_steps,
        batch_size=config.batch_size,
        seed=seed,
        yes_no_share=config.yes_no_share,
    )
    samples = _samples(folds, _SAMPLE, seed)

    def measure() -> dict[str, float]:
        figures: dict[str, float] = {}
        for fold, edits in samples.items():
            figures |= edit_figures(model, edits, fold)
            if config.yes_no_share:
                figures |= _yes_no_figure(model, edits, fold)
        return figures

    trainer = CounterfactualTrainer(
        model.language_model,
        trained,
        examples,
        config=config,
        seed=seed,
        folder=folder,
        log=log,
        measure=measure,
        processes=processes,
    )
    if after_step is not None:
        trainer.add_callback(AfterStep(lambda step: after_step(step, model)))
    checkpoint = trainer.newest_checkpoint()
    if processes.is_main:
        before = next((line for line in log.read() if line["step"] == 0), None)
        if before is None or checkpoint is None:
            log.resume_at(-1)
            log.add(0, _figures_before(model, samples))
        if checkpoint is not None:
            tell(f"resuming from {checkpoint}")
    processes.wait()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def keep() -> dict[str, float]:
        if trained is not network:
            trained.merge_and_unload()
        state = trainer.state
        return _keep(model, kept_dtype, folds, seed, described, reader, log, state, Path(out))

    return processes.from_main(keep)


def _keep(
    model: CounterfactualModel,
    kept_dtype: torch.dtype,
    folds: dict[str, list[Edit]],
    seed: int,
    described: Description,
    reader: Path | None,
    log: TrainingLog,
    state: TrainerState,
    out: Path,
) -> dict[str, float]:
    """Write the folder, and return the figures of the weights as they are stored."""
    network = model.language_model.model
    for parameter in network.parameters():  # as they will be read back
        parameter.data = parameter.data.to(kept_dtype).float()
    final = _final_figures(model, folds, seed) | reader_figures(reader, folds["val"], "val")
    first = next(line for line in log.read() if line["step"] == 0)
    stability = {name: first[name] for name in first if name.startswith("acc/")}
    last_step = state.best_global_step or state.global_step
    log.finish(state.global_step, {**final, **stability, "best_step": last_step})
    with folder_aside(out) as aside:
        network.to(kept_dtype).save_pretrained(aside)
        model.language_model.tokenizer.save_pretrained(aside)
        write_description(aside, described)
        add_reader(reader, aside)
        for file in filter(Path.is_file, aside.iterdir()):
            file.chmod(0o644)  # safetensors makes them readable to their owner alone
        log.publish(aside / "log.jsonl")
    network.float()
    return {**final, **stability, "edit/exact_match_before": first["edit/exact_match_before"]}


def edit_figures(
    model: CounterfactualModel, edits: Sequence[Edit], fold: str, rephrasings: int = _SAMPLE
) -> dict[str, float]:
    """`edit/acc`, `edit/exact_match` and `generalization` of a fold, given the gold edits.

    Parameters
    ----------
    rephrasings:
        At most so many, drawn from all of the edits.
    """
    asked = [(edit, query, edit.target_new) for edit in edits for query in rephrasings_of(edit)]
    asked = Random(fold).sample(asked, min(rephrasings, len(asked)))
    rows = [(edit, edit.prompt, edit.target_new) for edit in edits] + asked
    scores = model.score(
        [edit for edit, _, _ in rows],
        [query for _, query, _ in rows],
        [target for *_, target in rows],
    )
    prompts, rephrased = scores[: len(edits)], scores[len(edits) :]
    figures = {
        f"edit/acc_{fold}": fmean(score.accuracy for score in prompts),
        f"edit/exact_match_{fold}": fmean(score.exact for score in prompts),
    }
    if rephrased:
        figures[f"generalization_{fold}"] = fmean(score.exact for score in rephrased)
    return figures


def _yes_no_figure(
    model: CounterfactualModel, edits: Sequence[Edit], fold: str
) -> dict[str, float]:
    """`edit/yes_no` of a fold, on the questions that fit the model; none if none does."""
    questions = yes_no_questions(edits)
    right = []
    for asked in Random(fold).sample(questions, min(_SAMPLE, len(questions))):
        with suppress(TextTooLong):
            (score,) = model.score([asked.edit], [asked.query], [asked.answer])
            right.append(score.exact)
    return {f"edit/yes_no_{fold}": fmean(right)} if right else {}


def _measure_in_context(
    model: CounterfactualModel,
    folds: dict[str, list[Edit]],
    out: str | Path,
    described: Description,
    reader: Path | None,
    log: TrainingLog,
    seed: int,
) -> dict[str, float]:
    """The figures of a base model that reads the edits, logged before and after no training."""
    tell(f"{model.language_model.name} reads each edit in its context: nothing is trained")
    log.resume_at(-1)
    first = _figures_before(model, _samples(folds, _SAMPLE, seed))
    log.add(0, first)
    stability = {name: first[name] for name in first if name.startswith("acc/")}
    final = _final_figures(model, folds, seed) | reader_figures(reader, folds["val"], "val")
    log.finish(0, {**final, **stability, "best_step": 0})
    with folder_aside(out) as aside:
        write_description(aside, described)
        add_reader(reader, aside)
        log.publish(aside / "log.jsonl")
    return {**final, **stability, "edit/exact_match_before": first["edit/exact_match_before"]}


def _final_figures(
    model: CounterfactualModel, folds: dict[str, list[Edit]], seed: int
) -> dict[str, float]:
    return {
        figure: value
        for fold, edits in _samples(folds, _FINAL_SAMPLE, seed).items()
        for figure, value in edit_figures(model, edits, fold, rephrasings=3 * _SAMPLE).items()
    }


def _figures_before(model: CounterfactualModel, samples: dict[str, list[Edit]]) -> dict[str, float]:
    figures = edit_figures(model, samples["val"], "val")
    before = {
        "edit/acc_before": figures["edit/acc_val"],
        "edit/exact_match_before": figures["edit/exact_match_val"],
    }
    for fold, edits in samples.items():
        probes = [p for edit in edits for p in edit.locality if (p.ground_truth or "").strip()]
        probes = Random(fold).sample(probes, min(_SAMPLE, len(probes)))
        if probes:
            scores = model.language_model.score(
                [probe.prompt for probe in probes], [probe.ground_truth or "" for probe in probes]
            )
            accuracy = fmean(score.accuracy for score in scores)
            before |= {f"acc/pre_{fold}": accuracy, f"acc/post_{fold}": accuracy}
    return before


def _read_fold(file: Path) -> list[Edit]:
    edits = [edit for edit in read_edits(file) if edit.status == "active"]
    if not edits:
        raise EmptyTrainingSet(
            f"{file}: no active edit",
            remedy="make the training set again: `serac edits training-set`",
        )
    return edits


def _samples(folds: dict[str, list[Edit]], size: int, seed: int) -> dict[str, list[Edit]]:
    return {name: Random(seed).sample(e, min(size, len(e))) for name, e in folds.items()}


def _check(model: CounterfactualModel, edits: Sequence[Edit], config: CounterfactualConfig) -> None:
    """Every edit has an answer and fits the model, asked and stated in its longest wording,
    before anything is trained. A model that isn't trained has to have room to answer at once."""
    longest = [max((edit.prompt, *edit.rephrase_prompts), key=len) for edit in edits]
    texts = [
        model.text(wording, edit.target_new, wording)
        for edit, wording in zip(edits, longest, strict=True)
    ]
    targets = [format_target(edit.target_new) for edit in edits]
    model.language_model.encode_pairs(texts, targets)
    if model.in_context:
        model.language_model.prompt_rows(texts, config.max_new_tokens)


def _content_key(
    training_set: Path,
    start_from: str,
    config: CounterfactualConfig,
    seed: int,
    described: Description,
) -> str:
    """What the weights depend on: data, starting model, settings (not how answers are made)."""
    unused = {name for name in type(config).model_fields if name.startswith("lora_")}
    unused = {"kind", *unused} if config.kind == "finetuned" else set()
    settings = config.model_dump(
        exclude={"max_new_tokens", *READER_SETTINGS, *_HOW_A_STEP_IS_COMPUTED, *unused}
    )
    if described.chat_template:
        settings["chat_template"] = True
    digest = hashlib.sha256(json.dumps([_FORMAT, seed, settings, start_from]).encode())
    folder = Path(start_from)
    files = sorted(f for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else []
    for file in (training_set / "train.jsonl", training_set / "val.jsonl", *files):
        with file.open("rb") as handle:
            digest.update(f"{file.name}\x1f".encode())
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]
