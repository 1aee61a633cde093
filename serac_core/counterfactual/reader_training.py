"""Training of the reader: half a minute of made questions, on the scope encoder's lower layers."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any

from serac_core.config import CounterfactualConfig
from serac_core.counterfactual.examples import LEAD_INS, draw_claims, draw_other, draw_target
from serac_core.counterfactual.model import format_target
from serac_core.counterfactual.reader import (
    CLASSES,
    READER_FOLDER,
    READER_GRAPH,
    YesNoReader,
    mark,
)
from serac_core.counterfactual.training_log import TrainingLog
from serac_core.edits.atomic import folder_aside
from serac_core.edits.inferred_subject import subject_or_inferred
from serac_core.edits.record import Edit
from serac_core.edits.yes_no import YES, rephrasings_of, yes_no_questions
from serac_core.progress import tell

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

READER_SETTINGS = ("reader_steps", "reader_batch_size", "reader_learning_rate")
"""Of `CounterfactualConfig`: nothing else of the counterfactual model depends on them."""
_LOG = "log.jsonl"  # with times, so no part of a release
_FORMAT = 1  # of the examples; part of the key of what is kept
_LAYERS = 3  # of the encoder's, the lowest: six read no better and take twice the time
_HEAD_RATE = 10  # times the learning rate: the head begins from nothing
_WARMUP = 20  # steps at most
_AT_ONCE = 64  # texts of a pass
_SAMPLE = 200  # edits that are measured, and texts that the exported graph is compared on
_ASKING = (
    "Can you tell me this: {}",
    "Could you please help me with this: {}",
    "Would you tell me: {}",
    "Is there an answer to this: {}",
    "I would like to know: {}",
    "Do you know: {}",
    "{} Do you know?",
    "{} Can you tell me?",
    "{} Is there an answer?",
    "{} Is that known?",
    "{} I am not sure.",
)
_FOR_REASONS = ("Why", "When", "How", "Since when", "For what reason", "How long", "Where")


def make_reader(
    edits: Sequence[Edit],
    encoder: str,
    start: str,
    config: CounterfactualConfig,
    seed: int,
    cache_dir: Path,
) -> Path:
    """Train a reader and export it; what is kept under the same inputs is taken as it is.

    Parameters
    ----------
    edits:
        Of the training fold.
    encoder, start:
        As :func:`serac_core.scope.start.load_begun` takes them.

    Returns
    -------
    Path
        Folder with `reader.onnx` and its tokenizer; complete or absent, so that a training that
        was killed begins again (and ends with the same weights).

    Raises
    ------
    EncoderNotFound, AlteredEncoder, UnusableStart, NotExportable, ParityFailed, NonFiniteLoss
    """
    import torch

    from serac_core.scope.export import export_classifier
    from serac_core.scope.start import load_begun, weights_sha256
    from serac_core.scope.training import attend_plainly

    model = load_begun(encoder, start)
    attend_plainly(model)
    digest = hashlib.sha256()
    settings = config.model_dump(include=set(READER_SETTINGS))
    digest.update(json.dumps([_FORMAT, seed, settings, weights_sha256(model)]).encode())
    for edit in edits:
        digest.update(edit.model_dump_json().encode())
    folder = cache_dir / f"reader-{digest.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    tell(f"reader of yes/no questions: {config.reader_steps} steps")
    network = _begin(model)
    with folder_aside(folder) as aside:
        log = TrainingLog(aside / _LOG, config.reader_steps)
        _train(network, edits, config, seed, log)
        texts = [ReaderExamples(edits, seed + 1).draw(number)[0] for number in range(_SAMPLE)]
        with torch.no_grad():
            expected_NC = _logits(network, texts).numpy()
        export_classifier(network, texts, expected_NC, aside / READER_GRAPH)
    return folder


def add_reader(made: Path | None, folder: Path) -> None:
    """Put what :func:`make_reader` made, if anything, into a counterfactual model's folder."""
    if made is not None:
        shutil.copytree(made, folder / READER_FOLDER, ignore=shutil.ignore_patterns(_LOG))


def reader_figures(made: Path | None, edits: Sequence[Edit], fold: str) -> dict[str, float]:
    """Of the reader as it is stored, given the gold edits of a fold: `reader/yes`, `reader/no`, how
    many questions of either answer, in frames kept from training, are answered right;
    `reader/ordinary`, how many prompts and rephrasings are taken for yes/no questions."""
    if made is None:
        return {}
    reader = YesNoReader.open(made)
    edits = Random(fold).sample(edits, min(_SAMPLE, len(edits)))
    asked = yes_no_questions(edits)
    replies = reader.replies([a.edit for a in asked], [a.query for a in asked])
    right: dict[str, list[bool]] = {}
    for question, reply in zip(asked, replies, strict=True):
        name = "yes" if question.answer == YES else "no"
        right.setdefault(name, []).append(reply == question.answer)
    figures = {f"reader/{name}_{fold}": fmean(found) for name, found in right.items()}
    ordinary = [(edit, text) for edit in edits for text in (edit.prompt, *rephrasings_of(edit))]
    taken = reader.replies([edit for edit, _ in ordinary], [text for _, text in ordinary])
    return figures | {f"reader/ordinary_{fold}": fmean(reply is not None for reply in taken)}


class ReaderExamples:
    """Marked texts and the numbers of their classes; each a function of the seed and its number."""

    def __init__(self, edits: Sequence[Edit], seed: int) -> None:
        self._edits = edits
        self._seed = seed

    def draw(self, number: int) -> tuple[str, int]:
        """An example: of a random edit an ordinary wording, a question about a claim ("Why is
        ...?"), or a claim with its answer or another in the gap, as often confirmed as denied."""
        rng = Random(f"{self._seed}:{number}")
        while True:
            edit = rng.choice(self._edits)
            target = format_target(draw_target(edit, self._edits, (), rng))
            claims = draw_claims(edit, rng)
            claim = rng.choice(claims) if claims else None
            kind, draw = CLASSES[0], rng.random()
            if draw < 0.25:
                query = rng.choice((edit.prompt, *rephrasings_of(edit)))
                if draw < 0.05:
                    target = format_target(edit.target_new)  # some wordings hold it
                elif draw < 0.12:
                    query = rng.choice(_ASKING).format(query)
            elif claim is None:
                continue
            else:
                named = rng.random() < 0.5
                other = target if named else draw_other(target, edit, self._edits, (), rng)
                query = claim.asked(other)
                if draw < 0.32 and claim.kind == "question" and not claim.denies:
                    query = f"{rng.choice(_FOR_REASONS)} {query[0].lower()}{query[1:]}"
                else:
                    kind = CLASSES[2] if claim.denies else CLASSES[1]
            lead_in = rng.choice(LEAD_INS) if rng.random() < 0.15 else ""
            marked = mark(lead_in + query, subject_or_inferred(edit), target)
            if marked is not None:
                return marked.text, CLASSES.index(kind)


def _begin(encoder: SentenceTransformer) -> SentenceTransformer:
    """The encoder's lowest layers and a head of zeros."""
    from serac_core.scope.verifier import begin_verifier

    network = begin_verifier(encoder, len(CLASSES))
    transformer: Any = network[0].auto_model
    inner = getattr(transformer, "encoder", transformer)
    if hasattr(inner, "layer"):
        inner.layer = inner.layer[:_LAYERS]
    return network


def _train(
    network: SentenceTransformer,
    edits: Sequence[Edit],
    config: CounterfactualConfig,
    seed: int,
    log: TrainingLog,
) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    from serac_core.scope.training import NonFiniteLoss

    torch.manual_seed(seed)
    examples = ReaderExamples(edits, seed)
    transformer: Any = network[0].auto_model
    embeddings = {id(table) for table in transformer.get_input_embeddings().parameters()}
    head = list(network[2].parameters())
    apart = embeddings | {id(parameter) for parameter in head}
    body = [parameter for parameter in network.parameters() if id(parameter) not in apart]
    rates = (config.reader_learning_rate, config.reader_learning_rate * _HEAD_RATE)
    groups = [{"params": body, "lr": rates[0]}, {"params": head, "lr": rates[1]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    network.eval()  # no dropout, as in the encoder's training
    size, steps = config.reader_batch_size, config.reader_steps
    for step in range(steps):
        share = min((step + 1) / _WARMUP, max(0.02, 1 - step / steps))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        drawn = [examples.draw(number) for number in range(step * size, (step + 1) * size)]
        logits_BC = _logits(network, [text for text, _ in drawn], quick=True)
        loss = cross_entropy(logits_BC, torch.tensor([kind for _, kind in drawn]))
        if not math.isfinite(loss.item()):
            raise NonFiniteLoss(
                f"reader, step {step + 1}: the loss is {loss.item()}",
                remedy="lower counterfactual.reader_learning_rate in params.yaml",
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(body + head, 1.0)
        optimizer.step()
        if (step + 1) % 20 == 0 or step + 1 == steps:
            log.add(step + 1, {"loss/reader": loss.item()}, (step + 1) * size)


def _logits(
    network: SentenceTransformer, texts: Sequence[str], *, quick: bool = False
) -> torch.Tensor:
    """(N, C) float32, with gradients where they are on."""
    from contextlib import nullcontext

    import torch

    from serac_core.scope.encoder import MAX_TOKENS, encodable, quick_autocast

    parts = []
    with quick_autocast() if quick else nullcontext():
        for first in range(0, len(texts), _AT_ONCE):
            features = network.tokenizer(
                [encodable(text) for text in texts[first : first + _AT_ONCE]],
                truncation=True,
                max_length=MAX_TOKENS,
                padding=True,
                return_tensors="pt",
            )
            parts.append(network(dict(features))["sentence_embedding"].float())
    return torch.cat(parts)
