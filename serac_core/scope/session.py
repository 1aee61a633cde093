"""The exported encoder in ONNX Runtime: texts in, unit vectors out; no PyTorch needed.

Shapes: N texts, B texts of a batch, T tokens, D dimensions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serac_core.errors import SeracError
from serac_core.scope.cohort import COHORT_FILE, COHORT_VECTORS, Cohort, CohortScorer
from serac_core.scope.encoder import MAX_TOKENS, encodable

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

GRAPH_FILES = {
    "fp32": "encoder.onnx",
    "fp16": "encoder_fp16.onnx",
    "int8": "encoder_int8.onnx",
}
"""File of each variant in an export folder."""
TOKENIZER_FILE = "tokenizer.json"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class UnusableEncoder(SeracError):
    """A graph or tokenizer is missing, unreadable, or not a sentence encoder."""


class UnknownVariant(SeracError):
    """No graph of that variant was exported."""


class ProviderUnavailable(SeracError):
    """The execution provider that was asked for can't be had."""


def exported_variants(folder: str | Path) -> list[str]:
    """The variants whose graphs lie in an export folder, fp32 first."""
    return [name for name, file in GRAPH_FILES.items() if (Path(folder) / file).is_file()]


class OnnxEncoder:
    """A sentence encoder as ONNX Runtime runs it. Make one with :meth:`load`.

    Safe to use from several threads.

    Attributes
    ----------
    variant:
        fp32, fp16 or int8.
    provider:
        cpu or cuda: what really runs.
    digest:
        SHA-256 over graph, tokenizer, cohort and its vectors; vectors and scores of two digests
        are not comparable.
    cohort:
        What scores are taken relative to; empty if none was exported.
    """

    def __init__(
        self,
        session: InferenceSession,
        tokenizer: Tokenizer,
        cohort: Cohort,
        *,
        folder: Path,
        variant: str,
        provider: str,
        digest: str,
    ) -> None:
        self.variant = variant
        self.provider = provider
        self.digest = digest
        self.cohort = cohort
        self._folder = folder
        self._session = session
        self._inputs = {found.name for found in session.get_inputs()}
        self._output = session.get_outputs()[0].name
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.no_padding()
        self._tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        folder: str | Path,
        variant: str = "fp32",
        provider: str = "cpu",
        threads: int | None = None,
    ) -> OnnxEncoder:
        """Load one variant of an exported encoder.

        Parameters
        ----------
        folder:
            Holds the graph (`encoder.onnx`, `encoder_int8.onnx`, `encoder_fp16.onnx`; one
            file, no external data), `tokenizer.json` and, optionally, `cohort.json` and
            `cohort.npy`.
        provider:
            cpu or cuda. What is asked for is what runs: there is no fallback.
        threads:
            Of one encoder pass; None leaves the choice to ONNX Runtime (one a core).

        Raises
        ------
        UnknownVariant, ProviderUnavailable, UnusableEncoder, UnreadableCohort
        """
        folder = Path(folder)
        graph = _read_graph(folder, variant)
        tokenizer_text = _read(folder / TOKENIZER_FILE)
        session = _start_session(folder / GRAPH_FILES[variant], graph, provider, threads)
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_buffer(tokenizer_text)
        except Exception as error:  # the library raises nothing narrower
            raise UnusableEncoder(
                f"{folder / TOKENIZER_FILE}: not a tokenizer: {error}",
                remedy="`serac export` writes it",
            ) from error
        cohort_files = [folder / name for name in (COHORT_FILE, COHORT_VECTORS)]
        parts = [graph, tokenizer_text, *(_read(path) for path in cohort_files if path.exists())]
        digests = [hashlib.sha256(part).hexdigest() for part in parts]
        encoder = cls(
            session,
            tokenizer,
            Cohort.load(folder),
            folder=folder,
            variant=variant,
            provider=provider,
            digest=hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
        )
        encoder._require_interface(folder / GRAPH_FILES[variant])
        return encoder

    @cached_property
    def scorer(self) -> CohortScorer:
        """Scores relative to the cohort; its vectors are read from the export folder, else
        encoded at the first use (a millisecond or two a text).

        Raises
        ------
        UnusableEncoder
            The vectors are damaged, or not those of the cohort.
        """
        path = self._folder / COHORT_VECTORS
        if path.is_file():
            try:
                vectors_CD = np.load(path, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise UnusableEncoder(
                    f"{path}: not readable: {error}",
                    remedy="export the encoder again with `serac export`",
                ) from error
            if vectors_CD.ndim == 2 and len(vectors_CD) == len(self.cohort.texts):
                return CohortScorer(self.cohort, vectors_CD.astype(np.float32))
            raise UnusableEncoder(
                f"{path}: {vectors_CD.dtype} {vectors_CD.shape} for {len(self.cohort.texts)} texts",
                remedy="export the encoder again with `serac export`",
            )
        return CohortScorer(self.cohort, self.encode(self.cohort.texts))

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Encode texts into vectors of length 1.

        Texts of like length share a batch. A vector does not depend on the other texts of the
        call but for rounding (about 1e-7).

        Parameters
        ----------
        texts:
            Any strings; :func:`serac_core.scope.encoder.encodable` mends them, and they are
            cut after 128 tokens.

        Returns
        -------
        (N, D) float32

        Raises
        ------
        UnusableEncoder
            The graph gave something else than N finite vectors.
        """
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        found = self._tokenizer.encode_batch([encodable(text) for text in texts])
        token_ids = [encoding.ids for encoding in found]
        order = sorted(range(len(texts)), key=lambda place: len(token_ids[place]))
        parts = [
            self._run([token_ids[place] for place in order[first : first + batch_size]])
            for first in range(0, len(order), batch_size)
        ]
        vectors_ND = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
        vectors_ND[order] = np.concatenate(parts)
        return vectors_ND

    def _run(self, token_ids: list[list[int]]) -> NDArray[np.float32]:
        longest = max(1, *map(len, token_ids))
        ids_BT = np.zeros((len(token_ids), longest), dtype=np.int64)
        mask_BT = np.zeros_like(ids_BT)
        for row, ids in enumerate(token_ids):
            ids_BT[row, : len(ids)] = ids
            mask_BT[row, : len(ids)] = 1
        feed = {"input_ids": ids_BT, "attention_mask": mask_BT}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros_like(ids_BT)
        (output,) = self._session.run([self._output], feed)
        vectors_BD = np.asarray(output, dtype=np.float32)
        if vectors_BD.ndim != 2 or len(vectors_BD) != len(token_ids):
            raise UnusableEncoder(
                f"the {self.variant} graph gave shape {vectors_BD.shape} for {len(token_ids)} "
                "texts; allowed is one vector a text",
                remedy="export the encoder again with `serac export`",
            )
        if not np.isfinite(vectors_BD).all():
            raise UnusableEncoder(
                f"the {self.variant} graph gave numbers that are not finite",
                remedy="export the encoder again with `serac export`, or serve another variant",
            )
        lengths_B1 = np.linalg.norm(vectors_BD, axis=1, keepdims=True)
        unit_BD: NDArray[np.float32] = vectors_BD / np.maximum(lengths_B1, np.float32(1e-12))
        return unit_BD

    def _require_interface(self, graph: Path) -> None:
        required = {"input_ids", "attention_mask"}
        if not required <= self._inputs <= required | {"token_type_ids"}:
            raise UnusableEncoder(
                f"{graph}: inputs are {', '.join(sorted(self._inputs))}; allowed are input_ids, "
                "attention_mask and, optionally, token_type_ids",
                remedy="export the encoder with `serac export`",
            )


def _read_graph(folder: Path, variant: str) -> bytes:
    if not folder.is_dir():
        raise UnusableEncoder(
            f"{folder}: no such folder",
            remedy="name a release directory, such as .serac/releases/v1.0.0; `serac retrain` "
            "makes one",
        )
    if variant not in GRAPH_FILES or not (folder / GRAPH_FILES[variant]).is_file():
        found = ", ".join(exported_variants(folder)) or "none"
        raise UnknownVariant(
            f"{folder}: no encoder graph of variant {variant!r}; exported are: {found}",
            remedy="choose one of those, or add it to export.variants in params.yaml",
        )
    return _read(folder / GRAPH_FILES[variant])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableEncoder(
            f"{path}: not readable: {error.strerror or error}", remedy="`serac export` writes it"
        ) from error


def _start_session(
    path: Path, graph: bytes, provider: str, threads: int | None
) -> InferenceSession:
    import onnxruntime as ort

    available = ort.get_available_providers()
    asked = PROVIDERS.get(provider, provider)
    if asked not in available:
        raise _provider_unavailable(provider, available)
    if provider == "cuda":
        ort.preload_dlls()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session: Any = ort.InferenceSession(graph, options, providers=[asked])
    except Exception as error:  # ONNX Runtime's own classes have no common public base
        if provider != "cpu" and "CUDA" in str(error):
            raise _provider_unavailable(provider, available, str(error)) from error
        raise UnusableEncoder(
            f"{path}: ONNX Runtime can't load it: {error}", remedy="`serac export` writes it"
        ) from error
    if session.get_providers()[0] != asked:
        raise _provider_unavailable(provider, session.get_providers())
    return session


def _provider_unavailable(
    provider: str, available: Sequence[str], why: str = ""
) -> ProviderUnavailable:
    names = {value: key for key, value in PROVIDERS.items()}
    can = ", ".join(names[name] for name in available if name in names)
    return ProviderUnavailable(
        f"execution provider {provider!r} is not available (available here: {can})"
        + (f": {why.splitlines()[0]}" if why else ""),
        remedy="choose an available one (--provider, export.provider in params.yaml), "
        "or install the driver and libraries that the other needs",
    )
