"""The verifier: a cross-encoder that reads an edit's wording and a query together.

The encoder compares two texts by one vector each, made without sight of the other. Where that
leaves doubt, in a band of scores set by the calibration, the verifier reads both at once, the
subject masked in each. It begins with the trained encoder's weights; its output is a logit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from serac_core.config import ScopeConfig
from serac_core.counterfactual.training_log import TrainingLog
from serac_core.progress import tell
from serac_core.scope.checkpoint import load_checkpoint, save_checkpoint
from serac_core.scope.encoder import MAX_TOKENS, encodable, quick_autocast

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer

    from serac_core.scope.pairs import PairMaker

VERIFIER_FOLDER = "verifier"
"""In the folder of a trained model."""
_AT_ONCE = 64  # pairs of a pass, of like length
_HEAD_RATE = 10  # times the learning rate: the head begins from nothing
_WARMUP = 50  # steps at most


class Verifier(Protocol):
    """What the router needs of a verifier."""

    def logits(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """(N,) of edit's wording and query, masked: above 0 where the edit rather applies."""


class TorchVerifier:
    """The verifier before export."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model

    @classmethod
    def load(cls, folder: Path) -> TorchVerifier:
        """Open what :func:`train_verifier` made and `SentenceTransformer.save` wrote."""
        from sentence_transformers import SentenceTransformer

        return cls(SentenceTransformer(str(folder), device="cpu", local_files_only=True))

    def logits(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        import numpy as np
        import torch

        if not pairs:
            return np.empty(0, dtype=np.float32)
        self.model.eval()
        with torch.no_grad():
            found: NDArray[np.float32] = pair_logits(self.model, pairs).numpy()
        return found


def begin_verifier(encoder: SentenceTransformer, outputs: int = 1) -> SentenceTransformer:
    """A verifier with the encoder's weights (copies) and a head of zeros."""
    import copy

    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense

    transformer: Any = copy.deepcopy(encoder[0])
    pooling: Any = copy.deepcopy(encoder[1])
    width = encoder.get_embedding_dimension() or 0
    head = Dense(width, outputs, activation_function=torch.nn.Identity())
    torch.nn.init.zeros_(head.linear.weight)
    torch.nn.init.zeros_(head.linear.bias)
    return SentenceTransformer(modules=[transformer, pooling, head], device="cpu")


def pair_logits(
    model: SentenceTransformer, pairs: Sequence[tuple[str, str]], *, quick: bool = False
) -> torch.Tensor:
    """(N,) float32, with gradients where they are on; pairs of like length share a pass.

    Parameters
    ----------
    quick:
        Products in bfloat16 where the processor multiplies it, for training.
    """
    from contextlib import nullcontext

    import torch

    known = [(encodable(key), encodable(query)) for key, query in pairs]
    order = sorted(range(len(known)), key=lambda place: sum(map(len, known[place])))
    parts = []
    with quick_autocast() if quick else nullcontext():
        for first in range(0, len(order), _AT_ONCE):
            keys, queries = zip(*(known[n] for n in order[first : first + _AT_ONCE]), strict=True)
            features = model.tokenizer(
                list(keys),
                list(queries),
                truncation=True,
                max_length=MAX_TOKENS,
                padding=True,
                return_tensors="pt",
            )
            parts.append(model(dict(features))["sentence_embedding"][:, 0].float())
    back_N = torch.empty(len(order), dtype=torch.long)
    back_N[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[back_N]


def train_verifier(
    encoder: SentenceTransformer, pairs: PairMaker, config: ScopeConfig, folder: Path, seed: int
) -> SentenceTransformer:
    """Train on binary cross-entropy; resumable from `folder`, as the encoder's training is.

    Raises
    ------
    NonFiniteLoss
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    from serac_core.scope.training import NonFiniteLoss, freeze

    torch.manual_seed(seed)
    model = begin_verifier(encoder)
    trained = freeze(model, config)
    head = list(model[2].parameters())
    in_head = {id(parameter) for parameter in head}
    body = [parameter for parameter in trained if id(parameter) not in in_head]
    rates = (config.verifier_learning_rate, config.verifier_learning_rate * _HEAD_RATE)
    groups = [{"params": body, "lr": rates[0]}, {"params": head, "lr": rates[1]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    log = TrainingLog(folder / "log.jsonl", config.verifier_steps)
    done = load_checkpoint(folder, model, optimizer)
    log.resume_at(done if done else -1)
    tell(f"verifier: resuming after step {done}" if done else f"verifier: {len(pairs)} edits")
    model.eval()  # no dropout, as in the encoder's training
    examples = 0
    for step in range(done, config.verifier_steps):
        share = min((step + 1) / _WARMUP, max(0.02, 1 - step / config.verifier_steps))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        batch = pairs.step(step)
        logit_N = pair_logits(model, [(pair.key, pair.query) for pair in batch], quick=True)
        applies_N = torch.tensor([float(pair.applies) for pair in batch])
        loss = binary_cross_entropy_with_logits(logit_N, applies_N)
        if not math.isfinite(loss.item()):
            raise NonFiniteLoss(
                f"verifier, step {step + 1}: the loss is {loss.item()}",
                remedy="lower scope.verifier_learning_rate in params.yaml",
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        examples += len(batch)
        finished = step + 1
        is_last = finished == config.verifier_steps
        if finished % 10 == 0 or is_last:
            log.add(finished, {"loss/verifier": loss.item()}, examples)
        if finished % config.checkpoint_every == 0 or is_last:
            save_checkpoint(folder, finished, model, optimizer)
    return model
