"""What the router needs of an encoder, and the trained model in PyTorch behind that interface.

The exported model is :class:`serac_core.scope.session.OnnxEncoder`. Both turn texts into unit
vectors of float32, tell by a digest which encoder they are, and carry the scorer of the cohort
(:mod:`serac_core.scope.cohort`) that scores are taken relative to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from serac_core.scope.cohort import Cohort, CohortScorer
from serac_core.scope.loading import file_sha256, load_encoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

MAX_TOKENS = 128
"""Longer texts are cut, in training, export and use alike."""
_MAX_CHARACTERS = 16_384


class Encoder(Protocol):
    """What the memory and the router need of an encoder."""

    @property
    def variant(self) -> str:
        """fp32, fp16, int8; `torch` before export."""

    @property
    def digest(self) -> str:
        """Changes with anything that changes vectors or scores."""

    @property
    def scorer(self) -> CohortScorer:
        """Scores relative to the encoder's cohort."""

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Matrix:
        """(N, D) unit vectors."""


def encodable(text: str) -> str:
    """The text as encoders get it: lone surrogates become `?`, NUL a space.

    Only the first 16,384 characters count; the encoder reads 128 tokens of them.
    """
    cut = text[:_MAX_CHARACTERS]
    return cut.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")


class TorchEncoder:
    """The model before export.

    Parameters
    ----------
    model:
        A `SentenceTransformer`.
    """

    variant = "torch"

    def __init__(
        self,
        model: Any,
        cohort: Cohort,
        digest: str = "torch",
        scorer: CohortScorer | None = None,
    ) -> None:
        self.model = model
        self.cohort = cohort
        self.digest = digest
        self._scorer = scorer

    @classmethod
    def load(cls, folder: str | Path, scorer: CohortScorer | None = None) -> TorchEncoder:
        """Open `build/scope/model`.

        Parameters
        ----------
        scorer:
            Of the exported encoder: the vectors of the cohort that a release keeps. Without it
            they are made by this encoder.

        Raises
        ------
        EncoderNotFound, UnreadableCohort
        """
        folder = Path(folder)
        model = load_encoder(str(folder))
        model.max_seq_length = min(model.max_seq_length or MAX_TOKENS, MAX_TOKENS)
        files = sorted(folder.rglob("*.safetensors"))
        parts = json.dumps([file_sha256(path) for path in files])
        digest = hashlib.sha256(parts.encode()).hexdigest()
        return cls(model, Cohort.load(folder), digest, scorer)

    @property
    def scorer(self) -> CohortScorer:
        """The one given, else made anew at each use: the weights may be in training."""
        return self._scorer or CohortScorer(self.cohort, self.encode(self.cohort.texts))

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Matrix:
        """(N, D) unit vectors of float32."""
        import numpy as np

        found = self.model.encode(
            [encodable(text) for text in texts],
            batch_size=batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        width = self.model.get_embedding_dimension()
        return np.asarray(found, dtype=np.float32).reshape(len(texts), width)
