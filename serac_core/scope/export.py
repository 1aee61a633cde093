"""Export: encoder, mean pooling and normalisation as one ONNX graph, checked against PyTorch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serac_core.config import ExportConfig
from serac_core.edits.atomic import folder_aside
from serac_core.edits.jsonl import read_edits
from serac_core.errors import SeracError
from serac_core.scope.encoder import MAX_TOKENS, TorchEncoder
from serac_core.scope.loading import file_sha256
from serac_core.scope.session import GRAPH_FILES, OnnxEncoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

OPSET = 18
_OUTPUT = "sentence_vector"  # `embedding` would stand twice in the graph
_PARITY_EDITS = 200
_PARITY_COHORT = 1500
_QUANTIZED = ("MatMul", "Gemm", "Gather")


class ParityFailed(SeracError):
    """The exported fp32 graph doesn't give the vectors that PyTorch gives."""


class NotExportable(SeracError):
    """The encoder is of a kind that the export doesn't know."""


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
        The content of `export.json`: per variant `max_abs_diff`, `cosine_min`, `cosine_mean`.

    Raises
    ------
    EncoderNotFound, UnavailableProvider, ParityFailed, NotExportable, UnreadableEdits
    """
    torch_encoder = TorchEncoder.load(model_dir)
    texts = _parity_texts(Path(training_set) / "calibrate.jsonl", torch_encoder.cohort.texts)
    variants = list(dict.fromkeys(("fp32", *config.variants)))
    with folder_aside(out) as folder:
        _write_tokenizer(torch_encoder.model, folder)
        graph = folder / GRAPH_FILES["fp32"]
        _say("fp32: exporting")
        _export_fp32(torch_encoder.model, graph)
        expected_ND = torch_encoder.encode(texts)
        cohort = torch_encoder.cohort
        vectors_CD = OnnxEncoder.load(folder, "fp32", config.provider).encode(cohort.texts)
        cohort = cohort.with_synonyms(vectors_CD)
        cohort.save(folder)
        _say(f"cohort: {len(cohort.texts)} texts, {len(cohort.synonyms)} pairs of synonyms")
        parity: dict[str, dict[str, float]] = {}
        digests: dict[str, str] = {}
        for variant in variants:
            if variant == "int8":
                _quantize(graph, folder / GRAPH_FILES["int8"])
            elif variant == "fp16":
                _halve(graph, folder / GRAPH_FILES["fp16"])
            provider = "cuda" if variant == "fp16" else config.provider
            encoder = OnnxEncoder.load(folder, variant, provider)
            parity[variant] = _compare(expected_ND, encoder.encode(texts))
            digests[variant] = encoder.digest
            encoder.save_cohort(
                folder, vectors_CD if variant == "fp32" else encoder.encode(cohort.texts)
            )
            _say(f"{variant}: {parity[variant]}")
        if parity["fp32"]["max_abs_diff"] > PARITY_BOUND:
            raise ParityFailed(
                f"{out}: fp32 differs from PyTorch by {parity['fp32']['max_abs_diff']:.2e} "
                f"(at most {PARITY_BOUND:g})",
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
            "digests": digests,
            "sha256": {
                GRAPH_FILES[variant]: file_sha256(folder / GRAPH_FILES[variant])
                for variant in variants
            },
        }
        text = json.dumps(report, indent=1, sort_keys=True) + "\n"
        (folder / "export.json").write_text(text, encoding="utf-8")
    return report


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
    import logging
    import warnings

    import torch

    transformer: Any = model[0]
    network = transformer.auto_model.float().eval()
    pooling = model[1]
    mode = getattr(pooling, "pooling_mode", None)
    pools_mean = mode == "mean" or getattr(pooling, "pooling_mode_mean_tokens", False)
    if not pools_mean:
        raise NotExportable(
            f"the encoder pools by {mode!r}; the export knows mean pooling",
            remedy="use an encoder with mean pooling",
        )

    class SentenceEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden_BLD = self.network(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
            weights_BL1 = attention_mask.unsqueeze(-1).to(hidden_BLD.dtype)
            mean_BD = (hidden_BLD * weights_BL1).sum(1) / weights_BL1.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean_BD, dim=-1)

    ids_BL = torch.ones((2, 9), dtype=torch.long)
    mask_BL = torch.ones_like(ids_BL)  # one tensor for both would become one input of the graph
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=MAX_TOKENS)
    shape = {0: batch, 1: length}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            SentenceEncoder().eval(),
            (ids_BL, mask_BL),
            input_names=["input_ids", "attention_mask"],
            output_names=[_OUTPUT],
            dynamic_shapes=(shape, shape),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise NotExportable("torch.onnx made no program", remedy="report the encoder's name")
    program.save(str(path), external_data=False)


def _quantize(graph: Path, path: Path) -> None:
    """Dynamic int8, weights per channel: per tensor, the cosine to fp32 falls to 0.966."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)
    quantize_dynamic(
        str(graph),
        str(path),
        op_types_to_quantize=list(_QUANTIZED),
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": 1},
    )


def _halve(graph: Path, path: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(graph), keep_io_types=True), path)


def _compare(expected_ND: Any, got_ND: Any) -> dict[str, float]:
    import numpy as np

    cosines_N = (expected_ND * got_ND).sum(axis=1)
    return {
        "max_abs_diff": float(np.abs(expected_ND - got_ND).max()),
        "cosine_min": float(cosines_N.min()),
        "cosine_mean": float(cosines_N.mean()),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
