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
    from tokenizers import Encoding, Tokenizer

GRAPH_FILES = {
    "fp32": "encoder.onnx",
    "fp16": "encoder_fp16.onnx",
    "int8": "encoder_int8.onnx",
}
"""File of each variant in an export folder."""
VERIFIER_FILES = {
    "fp32": "verifier.onnx",
    "fp16": "verifier_fp16.onnx",
    "int8": "verifier_int8.onnx",
}
"""The same of the verifier, which an export need not have."""
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
        SHA-256 over graph, tokenizer, cohort, its vectors and the verifier; vectors and scores of
        two digests are not comparable.
    cohort:
        What scores are taken relative to; empty if none was exported.
    verifier:
        Of the same variant; None if none was exported.
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
        verifier: OnnxVerifier | None = None,
    ) -> None:
        self.variant = variant
        self.provider = provider
        self.digest = digest
        self.cohort = cohort
        self.verifier = verifier
        self._folder = folder
        self._graph = _Graph(session, variant)
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
            file, no external data), `tokenizer.json` and, optionally, `cohort.json`,
            `cohort.npy` and the verifier's graph.
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
        tokenizer = _tokenizer(folder / TOKENIZER_FILE, tokenizer_text)
        others = [folder / name for name in (COHORT_FILE, COHORT_VECTORS)]
        verifier = None
        verifier_file = folder / VERIFIER_FILES[variant]
        if verifier_file.is_file():
            others.append(verifier_file)
            verifier = OnnxVerifier(
                _start_session(verifier_file, _read(verifier_file), provider, threads),
                tokenizer,
                variant,
            )
        parts = [graph, tokenizer_text, *(_read(path) for path in others if path.exists())]
        digests = [hashlib.sha256(part).hexdigest() for part in parts]
        encoder = cls(
            session,
            tokenizer,
            Cohort.load(folder),
            folder=folder,
            variant=variant,
            provider=provider,
            digest=hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
            verifier=verifier,
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
        vectors_ND = self._graph.run(found, batch_size)
        if vectors_ND.ndim != 2:
            raise UnusableEncoder(
                f"the {self.variant} graph gave shape {vectors_ND.shape} for {len(texts)} texts; "
                "allowed is one vector a text",
                remedy="export the encoder again with `serac export`",
            )
        lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        unit_ND: NDArray[np.float32] = vectors_ND / np.maximum(lengths_N1, np.float32(1e-12))
        return unit_ND

    def _require_interface(self, graph: Path) -> None:
        required = {"input_ids", "attention_mask"}
        inputs = self._graph.inputs
        if not required <= inputs <= required | {"token_type_ids"}:
            raise UnusableEncoder(
                f"{graph}: inputs are {', '.join(sorted(inputs))}; allowed are input_ids, "
                "attention_mask and, optionally, token_type_ids",
                remedy="export the encoder with `serac export`",
            )


class OnnxVerifier:
    """The exported verifier: reads an edit's wording and a query together. Safe to use from
    several threads."""

    def __init__(self, session: InferenceSession, tokenizer: Tokenizer, variant: str) -> None:
        self._graph = _Graph(session, variant)
        self._tokenizer = tokenizer

    def logits(self, pairs: Sequence[tuple[str, str]], batch_size: int = 64) -> NDArray[np.float32]:
        """(N,) of edit's wording and query, masked: above 0 where the edit rather applies.

        Raises
        ------
        UnusableEncoder
            The graph gave something else than N finite numbers.
        """
        if not pairs:
            return np.empty(0, dtype=np.float32)
        known = [(encodable(key), encodable(query)) for key, query in pairs]
        logits_N = self._graph.run(self._tokenizer.encode_batch(known), batch_size)
        return logits_N.reshape(len(pairs))


class OnnxClassifier:
    """An exported network that sorts texts. Safe to use from several threads.

    Parameters
    ----------
    graph:
        Of int8 weights; beside it lies `tokenizer.json`.
    threads:
        Of one pass; None leaves the choice to ONNX Runtime.

    Raises
    ------
    UnusableEncoder
    """

    def __init__(self, graph: Path, threads: int | None = None) -> None:
        self._graph = _Graph(_start_session(graph, _read(graph), "cpu", threads), graph.stem)
        file = graph.parent / TOKENIZER_FILE
        self._tokenizer = _tokenizer(file, _read(file))

    def logits(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """(N, C) of the classes.

        Raises
        ------
        UnusableEncoder
            The graph gave something else than N rows of finite numbers.
        """
        known = [encodable(text) for text in texts]
        return self._graph.run(self._tokenizer.encode_batch(known), batch_size)


class _Graph:
    """A session and how its inputs are fed."""

    def __init__(self, session: InferenceSession, variant: str) -> None:
        self.inputs = {found.name for found in session.get_inputs()}
        self._session = session
        self._output = session.get_outputs()[0].name
        self._variant = variant

    def run(self, found: Sequence[Encoding], batch_size: int) -> NDArray[np.float32]:
        """(N, ...) the output for each; texts of like length share a batch."""
        order = sorted(range(len(found)), key=lambda place: len(found[place].ids))
        parts = [
            self._run([found[place] for place in order[first : first + batch_size]])
            for first in range(0, len(order), batch_size)
        ]
        output_N = np.empty((len(found), *parts[0].shape[1:]), dtype=np.float32)
        output_N[order] = np.concatenate(parts)
        return output_N

    def _run(self, found: Sequence[Encoding]) -> NDArray[np.float32]:
        longest = max(1, *(len(encoding.ids) for encoding in found))
        ids_BT = np.zeros((len(found), longest), dtype=np.int64)
        mask_BT = np.zeros_like(ids_BT)
        types_BT = np.zeros_like(ids_BT)
        for row, encoding in enumerate(found):
            length = len(encoding.ids)
            ids_BT[row, :length] = encoding.ids
            mask_BT[row, :length] = 1
            types_BT[row, :length] = encoding.type_ids
        feed = {"input_ids": ids_BT, "attention_mask": mask_BT}
        if "token_type_ids" in self.inputs:
            feed["token_type_ids"] = types_BT
        (output,) = self._session.run([self._output], feed)
        output_B = np.asarray(output, dtype=np.float32)
        if output_B.ndim == 0 or len(output_B) != len(found):
            raise UnusableEncoder(
                f"the {self._variant} graph gave shape {output_B.shape} for {len(found)} texts; "
                "allowed is one row a text",
                remedy="export the encoder again with `serac export`",
            )
        if not np.isfinite(output_B).all():
            raise UnusableEncoder(
                f"the {self._variant} graph gave numbers that are not finite",
                remedy="export the encoder again with `serac export`, or serve another variant",
            )
        return output_B


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


def _tokenizer(file: Path, text: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(text)
    except Exception as error:  # the library raises nothing narrower
        raise UnusableEncoder(
            f"{file}: not a tokenizer: {error}", remedy="`serac export` writes it"
        ) from error
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return tokenizer


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
