"""Training of the scope classifier: from a training set to a sentence encoder.

The loss has two parts, both in-batch softmax (InfoNCE, van den Oord et al. 2018; as in
sentence-transformers' MultipleNegativesRankingLoss) over cosines / temperature: phrasings of one
relation with the subject masked against those of the others about the same type of subject, and
against near misses; and whole prompts against their rephrasings, other prompts, near misses of
every kind and traffic. Both forms are what the router compares.

Figures of the log: `edit/acc_*` share of edit prompts and rephrasings routed to their edit,
`acc/pre_*` and `acc/post_*` share of locality probes left alone without and with edits (1 without
edits, by definition), at the scale and threshold that are best on `val`, against a part of the
cohort.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from serac_core.config import ScopeConfig
from serac_core.counterfactual.training_log import TrainingLog
from serac_core.edits.atomic import folder_aside
from serac_core.edits.jsonl import read_edits
from serac_core.edits.record import Edit
from serac_core.errors import SeracError
from serac_core.progress import tell
from serac_core.scope.batches import Batch, BatchMaker
from serac_core.scope.checkpoint import load_checkpoint, save_checkpoint
from serac_core.scope.cohort import Cohort
from serac_core.scope.encoder import MAX_TOKENS, TorchEncoder, quick_vectors
from serac_core.scope.loading import encoder_path, file_sha256
from serac_core.scope.pairs import PairMaker
from serac_core.scope.probes import (
    Probing,
    balanced_threshold,
    read_traffic,
    with_clear_probes,
)
from serac_core.scope.start import load_begun, start_sha256
from serac_core.scope.verifier import VERIFIER_FOLDER, train_verifier

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_FORMAT = 6  # of batches and loss; part of the key of the checkpoints
_OF_VERIFIER = ("verifier_steps", "verifier_batch_size", "verifier_learning_rate")
_SAMPLE = 60  # edits of a fold that are measured while training
_COHORT_EACH = 1  # phrasings of a relation that they are measured against


class EmptyScopeTraining(SeracError):
    """The training set has nothing to train or measure on."""


class NonFiniteLoss(SeracError):
    """The loss is no number."""


def train(
    training_set: str | Path,
    encoder: str,
    out: str | Path,
    config: ScopeConfig,
    *,
    start: str = "",
    seed: int = 17,
    cache_dir: str | Path = ".serac/cache",
    after_step: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Fine-tune the encoder on `train.jsonl` and write it to `out`.

    Resumable: killed at any moment and started again with the same inputs, it goes on from the
    last checkpoint in `<cache_dir>/scope-<key>` and ends with the same weights.

    Parameters
    ----------
    encoder:
        As in `models.encoder`: the packaged one, a folder or a hub id.
    start:
        As in `models.scope_start`: changes of the encoder's weights to begin with.
    out:
        Folder: a sentence-transformers model, `cohort.json`, `log.jsonl` and, with
        `verifier_steps`, the verifier in `verifier`. Complete or absent.
    after_step:
        Called with the number of each step, from 1, before it is logged.

    Returns
    -------
    dict
        The figures of the last line of the log.

    Raises
    ------
    UnreadableEdits, EncoderNotFound, AlteredEncoder, UnusableStart, EmptyScopeTraining,
    NonFiniteLoss
    """
    import torch

    training_set = Path(training_set)
    folds = {name: _read_fold(training_set / f"{name}.jsonl") for name in ("train", "val")}
    traffic = read_traffic(training_set / "traffic.jsonl", "train")
    model = load_begun(encoder, start)
    attend_plainly(model)
    key = _content_key(training_set, encoder, start, config, seed)
    folder = Path(cache_dir) / f"scope-{key}"
    log = TrainingLog(folder / "log.jsonl", config.max_steps)
    begun = f"{encoder} and {start}" if start else encoder
    tell(f"scope classifier from {begun}; checkpoints and log in {folder}")

    torch.manual_seed(seed)
    maker = BatchMaker(
        folds["train"], traffic, config.batch_size, seed, evenly=config.relations_evenly
    )
    cohort = Cohort.from_edits(folds["train"])
    measured = {
        name: Random(seed).sample(edits, min(_SAMPLE, len(edits))) for name, edits in folds.items()
    }
    trained = freeze(model, config)
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.01)
    done = load_checkpoint(folder, model, optimizer)
    log.resume_at(done if done else -1)
    if done:
        tell(f"resuming after step {done}")
    else:
        log.add(0, _figures(model, cohort, measured))
    figures: dict[str, float] = {}
    examples = 0
    for step in range(done, config.max_steps):
        torch.manual_seed((seed << 20) + step)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        batch = maker.batch(step)
        model.eval()  # no dropout: it costs a third of a step and the data is varied enough
        loss = _loss(model, batch, config.temperature)
        if not math.isfinite(loss.item()):
            raise NonFiniteLoss(
                f"step {step + 1}: the loss is {loss.item()}",
                remedy="lower the learning_rate of its section in params.yaml",
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        examples += len(batch.texts)
        finished = step + 1
        if after_step is not None:
            after_step(finished)
        if finished % config.checkpoint_every == 0 or finished == config.max_steps:
            figures = {"loss/train": loss.item(), **_figures(model, cohort, measured)}
            log.add(finished, figures, examples)
            save_checkpoint(folder, finished, model, optimizer)
        elif finished % 5 == 0:
            log.add(finished, {"loss/train": loss.item()}, examples)
    if not figures:  # killed between the last checkpoint and the output
        figures = _figures(model, cohort, measured)
    model.eval()
    model.max_seq_length = min(model.max_seq_length or MAX_TOKENS, MAX_TOKENS)
    verifier = None
    if config.verifier_steps:
        encoder_now = TorchEncoder(model, cohort, quick=True)
        pairs = PairMaker(
            folds["train"], traffic, encoder_now.encode, config.verifier_batch_size, seed
        )
        verifier = train_verifier(model, pairs, config, folder / _verifier_key(config), seed)
    with folder_aside(out) as aside:
        model.save(str(aside), create_model_card=False)
        if verifier is not None:
            verifier.save(str(aside / VERIFIER_FOLDER), create_model_card=False)
        cohort.save(aside)
        log.publish(aside / "log.jsonl")
    return figures


def _read_fold(file: Path) -> list[Edit]:
    edits = [edit for edit in read_edits(file) if edit.status == "active"]
    if len(edits) < 2 or not any(edit.rephrase_prompts for edit in edits):
        raise EmptyScopeTraining(
            f"{file}: needs two active edits at least, and rephrase_prompts",
            remedy="make the training set again: `serac edits training-set`",
        )
    return edits


def attend_plainly(model: SentenceTransformer) -> None:
    """For texts this short, the backward pass of fused attention takes twice as long on a CPU."""
    network: Any = model[0].auto_model
    if network.device.type == "cpu" and hasattr(network, "set_attn_implementation"):
        network.set_attn_implementation("eager")


def freeze(model: SentenceTransformer, config: ScopeConfig) -> list[Any]:
    """Leave word embeddings and the lowest layers as they are; the parameters that train."""
    network: Any = model[0].auto_model
    frozen = [network.get_input_embeddings()]
    if hasattr(network, "embeddings"):
        frozen.append(network.embeddings)
    layers = getattr(getattr(network, "encoder", network), "layer", None)
    if layers is not None:
        frozen += list(layers[: config.frozen_layers])
    for module in frozen:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _schedule(step: int, config: ScopeConfig) -> float:
    """Linear warm-up, then linear decay to 2 %."""
    warmup = max(1.0, config.warmup_share * config.max_steps)
    return min((step + 1) / warmup, max(0.02, 1 - step / config.max_steps))


def _loss(model: SentenceTransformer, batch: Batch, temperature: float) -> Any:
    """The training loss of a batch, a scalar tensor.

    Shapes: M masked texts, H near misses, K keys, G negatives, D dimensions.
    """
    import torch
    from torch.nn.functional import cross_entropy

    vectors_TD: Any = quick_vectors(model, batch.texts)
    sizes = [
        len(batch.masked),
        len(batch.near_misses),
        len(batch.keys),
        len(batch.keys),
        len(batch.negatives),
    ]
    masked_MD, near_HD, keys_KD, rephrased_KD, negatives_GD = vectors_TD.split(sizes)
    loss = torch.zeros(())
    if len(batch.masked) > 1:
        labels_M = torch.tensor(batch.labels)
        owners_H = torch.tensor(batch.owners, dtype=torch.long)
        types_M = torch.tensor(batch.types)
        own_MM = torch.eye(len(labels_M), dtype=torch.bool)
        positive_MM = (labels_M[:, None] == labels_M) & ~own_MM
        silent_MM = own_MM | (types_M[:, None] != types_M)
        scores_MM = (masked_MD @ masked_MD.T / temperature).masked_fill(silent_MM, -torch.inf)
        # A near miss is known to differ from its own edit only.
        near_MH = (masked_MD @ near_HD.T / temperature).masked_fill(
            labels_M[:, None] != owners_H, -torch.inf
        )
        negative_M = torch.cat(
            [scores_MM.masked_fill(positive_MM, -torch.inf), near_MH], dim=1
        ).logsumexp(1, keepdim=True)
        pairs = (torch.logaddexp(scores_MM, negative_M) - scores_MM)[positive_MM]
        loss = loss + pairs.mean()
    if len(batch.keys) > 1:
        scores_KT = keys_KD @ torch.cat([rephrased_KD, negatives_GD]).T / temperature
        scores_KK = rephrased_KD @ keys_KD.T / temperature
        right_K = torch.arange(len(batch.keys))
        loss = loss + (cross_entropy(scores_KT, right_K) + cross_entropy(scores_KK, right_K)) / 2
    return loss


def _figures(
    model: SentenceTransformer, cohort: Cohort, folds: dict[str, list[Edit]]
) -> dict[str, float]:
    """Routing of the folds by the model as it is, each with its own edits in memory."""
    model.eval()
    encoder = TorchEncoder(model, cohort.thinned(_COHORT_EACH), quick=True)
    probings = {name: Probing(encoder, with_clear_probes(edits)) for name, edits in folds.items()}
    scale = probings["val"].fitted_scale()
    outcomes = {name: probing.outcome(scale) for name, probing in probings.items()}
    threshold = balanced_threshold(outcomes["val"])
    figures: dict[str, float] = {"threshold": threshold}
    for name, outcome in outcomes.items():
        figures[f"edit/acc_{name}"] = outcome.true_route(threshold)
        figures[f"acc/pre_{name}"] = 1.0
        figures[f"acc/post_{name}"] = 1.0 - outcome.false_route(threshold)
    return figures


def _content_key(
    training_set: Path, encoder: str, start: str, config: ScopeConfig, seed: int
) -> str:
    """Changes with anything that the weights depend on."""
    source = Path(encoder_path(encoder))
    weights = sorted(source.rglob("*.safetensors")) if source.is_dir() else []
    parts = {
        "format": _FORMAT,
        "config": config.model_dump(exclude={"checkpoint_every", "rank", *_OF_VERIFIER}),
        "seed": seed,
        "encoder": [file_sha256(path) for path in weights] or encoder,
        "start": start_sha256(start) if start else "",
        "data": [
            file_sha256(training_set / name)
            for name in ("train.jsonl", "val.jsonl", "traffic.jsonl")
        ],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _verifier_key(config: ScopeConfig) -> str:
    """Changes with what, beside the encoder, the verifier's weights depend on."""
    text = json.dumps(config.model_dump(include=set(_OF_VERIFIER)), sort_keys=True)
    return f"{VERIFIER_FOLDER}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
