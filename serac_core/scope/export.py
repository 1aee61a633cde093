"""Export: encoder, mean pooling and normalisation as one ONNX graph, the verifier as another, both
checked against PyTorch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serac_core.config import ExportConfig
from serac_core.edits.atomic import folder_aside
from serac_core.edits.jsonl import read_edits
from serac_core.errors import SeracError
from serac_core.progress import in_chunks, tell
from serac_core.scope.cohort import Cohort
from serac_core.scope.encoder import MAX_TOKENS, TorchEncoder
from serac_core.scope.loading import file_sha256
from serac_core.scope.session import (
    GRAPH_FILES,
    VERIFIER_FILES,
    OnnxClassifier,
    OnnxEncoder,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from serac_core.scope.encoder import Matrix

OPSET = 23
_VERIFIER_OUTPUT = "logit"
_CLASSIFIER_OUTPUT = "logits"
_OUTPUT = "sentence_vector"  # `embedding` would stand twice in the graph
_PARITY_EDITS = 60
_PARITY_COHORT = 600
_PARITY_PAIRS = 200
_COHORT_AT_ONCE = 8192  # texts
_INT8_BLOCK = 128
_INT8_PRODUCTS = 4  # ONNX Runtime's accuracy_level of products in int8
_LARGE_TABLE = 1024  # rows from which a table is quantized


class ParityFailed(SeracError):
    """The exported fp32 graph doesn't give the vectors that PyTorch gives."""


class NotExportable(SeracError):
    """The encoder is of a kind that the export doesn't know."""


LOGIT_BOUND = 1e-2
"""Largest difference of a logit between the verifier's fp32 graph and PyTorch."""
PARITY_BOUND = 1e-4
"""Largest difference of a component between the fp32 graph and PyTorch."""


def export_encoder(
    model_dir: str | Path, training_set: str | Path, out: str | Path, config: ExportConfig
) -> dict[str, Any]:
    """Write the graphs asked for, tokenizer, cohort and `export.json` to `out`.

    Parity is measured on prompts, rephrasings and probes of `calibrate.jsonl` and on a part of the
    cohort's texts, which are masked.

    Returns
    -------
    dict
        The content of `export.json`: `parity`, per variant `max_abs_diff`, `cosine_min`,
        `cosine_mean`; `verifier_parity`, `max_abs_diff` and `mean_abs_diff` of logits.

    Raises
    ------
    EncoderNotFound, UnavailableProvider, ParityFailed, NotExportable, UnreadableEdits
    """
    torch_encoder = TorchEncoder.load(model_dir)
    texts = _parity_texts(Path(training_set) / "calibrate.jsonl", torch_encoder.cohort.texts)
    variants = list(dict.fromkeys(("fp32", *config.variants)))
    convert = {"int8": _quantize, "fp16": _halve}
    with folder_aside(out) as folder:
        _write_tokenizer(torch_encoder.model, folder)
        graph = folder / GRAPH_FILES["fp32"]
        tell("fp32: exporting")
        _export_fp32(torch_encoder.model, graph)
        for variant in variants[1:]:
            tell(f"{variant}: converting")
            convert[variant](graph, folder / GRAPH_FILES[variant])
        if torch_encoder.verifier is not None:
            tell("verifier: exporting")
            graph = folder / VERIFIER_FILES["fp32"]
            _export_verifier(torch_encoder.verifier.model, graph)
            for variant in variants[1:]:
                convert[variant](graph, folder / VERIFIER_FILES[variant])
        cohort = torch_encoder.cohort
        vectors_CD = _cohort_vectors(torch_encoder.model, cohort)
        cohort = cohort.with_synonyms(vectors_CD)
        cohort.save(folder, vectors_CD)
        tell(f"cohort: {len(cohort.synonyms)} pairs of synonyms")
        expected_ND = torch_encoder.encode(texts)
        parity: dict[str, dict[str, float]] = {}
        digests: dict[str, str] = {}
        pairs = list(pairwise(texts))[:_PARITY_PAIRS]
        logits: dict[str, dict[str, float]] = {}
        for variant in variants:
            provider = "cuda" if variant == "fp16" else config.provider
            encoder = OnnxEncoder.load(folder, variant, provider)
            parity[variant] = _compare(expected_ND, encoder.encode(texts))
            digests[variant] = encoder.digest
            tell(f"{variant}: {parity[variant]}")
            if torch_encoder.verifier is not None and encoder.verifier is not None:
                logits[variant] = _compare_logits(
                    torch_encoder.verifier.logits(pairs), encoder.verifier.logits(pairs)
                )
                tell(f"{variant}: verifier: {logits[variant]}")
        if parity["fp32"]["max_abs_diff"] > PARITY_BOUND:
            raise ParityFailed(
                f"{out}: fp32 differs from PyTorch by {parity['fp32']['max_abs_diff']:.2e} "
                f"(at most {PARITY_BOUND:g})",
                remedy="the architecture may need another opset; report the encoder's name",
            )
        if logits and logits["fp32"]["max_abs_diff"] > LOGIT_BOUND:
            raise ParityFailed(
                f"{out}: the verifier's fp32 logits differ from PyTorch's by "
                f"{logits['fp32']['max_abs_diff']:.2e} (at most {LOGIT_BOUND:g})",
                remedy="the architecture may need another opset; report the encoder's name",
            )
        report = {
            "schema": 1,
            "variants": variants,
            "opset": OPSET,
            "max_tokens": MAX_TOKENS,
            "dimensions": int(expected_ND.shape[1]),
            "texts": len(texts),
            "parity": parity,
            "verifier_parity": logits,
            "digests": digests,
            "sha256": {path.name: file_sha256(path) for path in sorted(folder.glob("*.onnx"))},
        }
        text = json.dumps(report, indent=1, sort_keys=True) + "\n"
        (folder / "export.json").write_text(text, encoding="utf-8")
    return report


def _cohort_vectors(model: SentenceTransformer, cohort: Cohort) -> Matrix:
    """(C, D); see :func:`serac_core.scope.encoder.quick_vectors`."""
    encoder = TorchEncoder(model, cohort, quick=True)
    parts = in_chunks(cohort.texts, "cohort: texts", tell, chunk=_COHORT_AT_ONCE)
    return np.concatenate([encoder.encode(part) for part in parts] or [encoder.encode([])])


def _parity_texts(file: Path, cohort: Sequence[str]) -> list[str]:
    texts: dict[str, None] = {}
    for edit in read_edits(file)[:_PARITY_EDITS]:
        probes = (probe.prompt for probe in edit.locality)
        texts |= dict.fromkeys((edit.prompt, *edit.rephrase_prompts, *probes))
    return [*texts, *cohort[:: -(-len(cohort) // _PARITY_COHORT) or 1]]


def _write_tokenizer(model: SentenceTransformer, folder: Path) -> None:
    model.tokenizer.save_pretrained(str(folder))
    if not (folder / "tokenizer.json").is_file():
        raise NotExportable(
            f"{type(model.tokenizer).__name__} writes no tokenizer.json",
            remedy="use an encoder with a fast tokenizer",
        )


def _export_fp32(model: SentenceTransformer, path: Path) -> None:
    """One graph: (B, L) ids and mask to (B, D) unit vectors."""
    import torch

    network = _network(model)

    class SentenceEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden_BLD = self.network(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
            return torch.nn.functional.normalize(_mean(hidden_BLD, attention_mask), dim=-1)

    _write_graph(SentenceEncoder(), ["input_ids", "attention_mask"], _OUTPUT, path)


def _export_verifier(model: SentenceTransformer, path: Path) -> None:
    """One graph: (B, L) ids, mask and types to (B,) logits."""
    import torch

    network = _network(model)
    dense: Any = model[2]
    head = dense.linear.float().eval()

    class PairReader(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.head = head

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            hidden_BLD = self.network(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state
            return self.head(_mean(hidden_BLD, attention_mask))[:, 0]

    _write_graph(
        PairReader(), ["input_ids", "attention_mask", "token_type_ids"], _VERIFIER_OUTPUT, path
    )


def export_classifier(
    model: SentenceTransformer, texts: Sequence[str], expected_NC: Matrix, graph: Path
) -> None:
    """Write a network that sorts texts as one int8 graph, (B, L) ids and mask to (B, C) logits, and
    its tokenizer beside it.

    Parameters
    ----------
    texts, expected_NC:
        What the fp32 graph has to give, within `LOGIT_BOUND`, before its weights are made int8.

    Raises
    ------
    ParityFailed, NotExportable
    """
    import torch

    network = _network(model)
    dense: Any = model[2]
    head = dense.linear.float().eval()

    class TextSorter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.head = head

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden_BLD = self.network(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
            return self.head(_mean(hidden_BLD, attention_mask))

    _write_tokenizer(model, graph.parent)
    exact = graph.with_suffix(".fp32.onnx")
    _write_graph(TextSorter(), ["input_ids", "attention_mask"], _CLASSIFIER_OUTPUT, exact)
    difference = float(np.abs(expected_NC - OnnxClassifier(exact).logits(texts)).max())
    if difference > LOGIT_BOUND:
        raise ParityFailed(
            f"{graph}: the fp32 logits differ from PyTorch's by {difference:.2e} "
            f"(at most {LOGIT_BOUND:g})",
            remedy="the architecture may need another opset; report the encoder's name",
        )
    _quantize(exact, graph)
    exact.unlink()


def _network(model: SentenceTransformer) -> Any:
    transformer: Any = model[0]
    pooling = model[1]
    mode = getattr(pooling, "pooling_mode", None)
    pools_mean = mode == "mean" or getattr(pooling, "pooling_mode_mean_tokens", False)
    if not pools_mean:
        raise NotExportable(
            f"the encoder pools by {mode!r}; the export knows mean pooling",
            remedy="use an encoder with mean pooling",
        )
    return transformer.auto_model.float().eval()


def _mean(hidden_BLD: Any, attention_mask: Any) -> Any:
    weights_BL1 = attention_mask.unsqueeze(-1).to(hidden_BLD.dtype)
    return (hidden_BLD * weights_BL1).sum(1) / weights_BL1.sum(1).clamp(min=1e-9)


def _write_graph(module: Any, inputs: list[str], output: str, path: Path) -> None:
    import logging
    import warnings

    import torch

    # One tensor given twice would become one input of the graph.
    examples = tuple(torch.ones((2, 9), dtype=torch.long) for _ in inputs)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=MAX_TOKENS)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            examples,
            input_names=inputs,
            output_names=[output],
            dynamic_shapes=({0: batch, 1: length},) * len(inputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise NotExportable("torch.onnx made no program", remedy="report the encoder's name")
    program.save(str(path), external_data=False)


def _quantize(graph: Path, path: Path) -> None:
    """Weights in int8: those of matrix products in blocks of 128 along the inner dimension, the
    word embeddings by row. Activations are quantized at run time in the same blocks, so that a
    text's vector doesn't depend on its batch.

    ONNX Runtime's dynamic quantization (one scale a tensor of activations) came to a mean cosine
    of 0.996 with fp32; this comes to 0.9998.
    """
    import logging

    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer

    logging.getLogger(matmul_nbits_quantizer.__name__).setLevel(logging.CRITICAL)
    model = onnx.load(graph)
    _quantize_embeddings(model.graph)
    quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(
        model, bits=8, block_size=_INT8_BLOCK, is_symmetric=True, accuracy_level=_INT8_PRODUCTS
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(path), False)


def _quantize_embeddings(graph: Any) -> None:
    """Put int8 rows, each with a scale, in the place of large tables that are only looked up."""
    from onnx import TensorProto, helper, numpy_helper

    uses = Counter(name for node in graph.node for name in node.input)
    tables = {
        table.name: table
        for table in graph.initializer
        if table.data_type == TensorProto.FLOAT
        and len(table.dims) == 2
        and table.dims[0] >= _LARGE_TABLE
        and uses[table.name] == 1
    }
    nodes: list[Any] = []
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or any(part.name == "axis" and part.i != 0 for part in node.attribute):
            nodes.append(node)
            continue
        name, rows_VD = table.name, numpy_helper.to_array(table)
        scale_V1 = np.maximum(np.abs(rows_VD).max(axis=1, keepdims=True), 1e-12) / 127
        table.CopyFrom(numpy_helper.from_array(np.round(rows_VD / scale_V1).astype(np.int8), name))
        scale = numpy_helper.from_array(scale_V1.astype(np.float32), f"{name}.scale")
        graph.initializer.append(scale)
        rows, wide, scales = (f"{name}.{part}" for part in ("rows", "wide", "scales"))
        nodes += [
            helper.make_node("Gather", [name, node.input[1]], [rows]),
            helper.make_node("Gather", [f"{name}.scale", node.input[1]], [scales]),
            helper.make_node("Cast", [rows], [wide], to=TensorProto.FLOAT),
            helper.make_node("Mul", [wide, scales], list(node.output)),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _halve(graph: Path, path: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(graph), keep_io_types=True), path)


def _compare_logits(expected_N: Any, got_N: Any) -> dict[str, float]:
    return {
        "max_abs_diff": float(np.abs(expected_N - got_N).max()),
        "mean_abs_diff": float(np.abs(expected_N - got_N).mean()),
    }


def _compare(expected_ND: Any, got_ND: Any) -> dict[str, float]:
    cosines_N = (expected_ND * got_ND).sum(axis=1)
    return {
        "max_abs_diff": float(np.abs(expected_ND - got_ND).max()),
        "cosine_min": float(cosines_N.min()),
        "cosine_mean": float(cosines_N.mean()),
    }
