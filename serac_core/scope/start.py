"""The start of the scope classifier: what a long training taught the packaged encoder.

The frozen DVC stage `pretrain-scope` trains the encoder once on the training fold of the project's
own world; what changed is shipped as `data/scope_start`, so that a retraining begins there and
takes a minute or two. Matrices are kept as the product of two thin ones (the change's truncated
singular value decomposition, as in LoRA: Hu et al. 2021), vectors as they are, both in float16.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serac_core.edits.atomic import folder_aside
from serac_core.errors import SeracError
from serac_core.scope.loading import file_sha256, load_encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_CHANGES = "changes.safetensors"
_ABOUT = "start.json"


class UnusableStart(SeracError):
    """The start can't be read, or belongs to another encoder."""


def save_start(
    out: str | Path, before: SentenceTransformer, after: SentenceTransformer, rank: int, log: Path
) -> float:
    """Write what training changed, and its log; complete or absent.

    Returns
    -------
    float
        The share of the change, in squares, that matrices of that rank keep.
    """
    from safetensors.torch import save_file

    changes, kept = _changes(before, after, rank)
    about = {
        "schema": 1,
        "encoder_sha256": weights_sha256(before),
        "rank": rank,
        "kept": round(kept, 4),
    }
    with folder_aside(out) as aside:
        save_file(changes, aside / _CHANGES)
        (aside / _ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (aside / "log.jsonl").write_bytes(log.read_bytes())
    return kept


def load_begun(encoder: str, start: str) -> SentenceTransformer:
    """The encoder with the changes of `start` put in; as it is, where that is empty.

    Raises
    ------
    EncoderNotFound, AlteredEncoder, UnusableStart
    """
    model = load_encoder(encoder)
    if start:
        apply_start(model, start)
    return model


def apply_start(model: SentenceTransformer, folder: str | Path) -> None:
    """Put the changes into a freshly loaded encoder.

    Raises
    ------
    UnusableStart
        The folder is missing or damaged, or the changes are those of other weights.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        made_for = about["encoder_sha256"]
        changes = load_file(folder / _CHANGES)
        if about["schema"] != 1:
            raise ValueError(f"schema {about['schema']}, known is 1")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _damaged(folder, str(error)) from error
    if made_for != weights_sha256(model):
        raise UnusableStart(
            f"models.scope_start {str(folder)!r} was made for other weights than models.encoder's",
            remedy='make one with `serac train scope-start`, or set models.scope_start to "" and '
            "scope.max_steps to 300 or more",
        )
    try:
        with torch.no_grad():
            for name, parameter in _parameters(model).items():
                if f"{name}.change" in changes:
                    parameter += changes.pop(f"{name}.change").float()
                elif f"{name}.out" in changes:
                    parameter += (
                        changes.pop(f"{name}.out").float() @ changes.pop(f"{name}.in").float()
                    )
    except (KeyError, RuntimeError) as error:
        raise _damaged(folder, str(error)) from error
    if changes:
        raise _damaged(folder, f"{min(changes)} belongs to no parameter of the encoder")


def _damaged(folder: Path, why: str) -> UnusableStart:
    return UnusableStart(
        f"models.scope_start {str(folder)!r}: not readable: {why}",
        remedy='make it with `serac train scope-start`, or set models.scope_start to ""',
    )


def start_sha256(folder: str | Path) -> str:
    """Of the changes."""
    return file_sha256(Path(folder) / _CHANGES)


def weights_sha256(model: SentenceTransformer) -> str:
    """Over names and values of the encoder's parameters."""
    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(_parameters(model).items()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _parameters(model: SentenceTransformer) -> dict[str, Any]:
    network: Any = model[0].auto_model
    return dict(network.named_parameters())


def _changes(
    before: SentenceTransformer, after: SentenceTransformer, rank: int
) -> tuple[dict[str, Any], float]:
    """The tensors to keep, and the share of the change that they hold."""
    import torch

    old = _parameters(before)
    found: dict[str, Any] = {}
    total = lost = 0.0
    with torch.no_grad():
        for name, parameter in _parameters(after).items():
            change = (parameter - old[name]).float()
            if not change.any():
                continue
            total += float(change.square().sum())
            if change.dim() != 2:
                found[f"{name}.change"] = change.half()
                continue
            left, scale, right = torch.linalg.svd(change, full_matrices=False)
            lost += float(scale[rank:].square().sum())
            root = scale[:rank].sqrt()
            found[f"{name}.out"] = (left[:, :rank] * root).half().contiguous()
            found[f"{name}.in"] = (root[:, None] * right[:rank]).half().contiguous()
    return found, 1.0 - lost / total if total else 1.0
