"""What encoding a masked wording costs, on texts of the world: ratios of one run.

    python benchmarks/scope_encoding.py [--texts 2000] [--rounds 3]

Arms, interleaved, each the median of its rounds:

- floor: tokenizer and network in bfloat16 (float32 where the processor has none), no padding, no
  pooling;
- quick: `quick_vectors`, as scope training, its figures and the export's cohort use it;
- float32: sentence-transformers' `encode`, batches by length in characters;
- onnx: the exported fp32 graph in ONNX Runtime.

`--backward` measures a training step's two passes instead: batches by tokens (`quick_vectors`) and
by characters.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from serac_core.config import ExportConfig, load_params
from serac_core.edits.jsonl import read_edits
from serac_core.edits.training_set import write_training_set
from serac_core.scope.cohort import Cohort
from serac_core.scope.encoder import TorchEncoder, encodable, quick_autocast, quick_vectors
from serac_core.scope.export import export_encoder
from serac_core.scope.loading import load_encoder
from serac_core.scope.session import OnnxEncoder

_CHUNK = 64
_STEP = 165  # texts of a step of scope training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backward", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        params = load_params("params.yaml")
        write_training_set("data/world", folder / "training", params)
        cohort = Cohort.from_edits(read_edits(folder / "training" / "train.jsonl"))
        texts = Random(0).sample(cohort.texts, min(asked.texts, len(cohort.texts)))
        model = load_encoder(params.models.encoder).eval()
        arms = _step_arms(model) if asked.backward else _encoding_arms(model, cohort, folder)
        _compare(arms, texts, asked.rounds)


def _encoding_arms(
    model: Any, cohort: Cohort, folder: Path
) -> dict[str, Callable[[Sequence[str]], object]]:
    quick = TorchEncoder(model, cohort, quick=True)
    exact = TorchEncoder(model, cohort)
    model.save(str(folder / "model"), create_model_card=False)
    settings = ExportConfig(variants=["fp32"], provider="cpu")
    export_encoder(folder / "model", folder / "training", folder / "onnx", settings)
    onnx = OnnxEncoder.load(folder / "onnx")

    def floor(texts: Sequence[str]) -> None:
        of_length: dict[int, list[list[int]]] = defaultdict(list)
        for ids in model.tokenizer(list(texts))["input_ids"]:
            of_length[len(ids)].append(ids)
        network = model[0].auto_model
        with torch.inference_mode(), quick_autocast():
            for rows in of_length.values():
                for first in range(0, len(rows), _CHUNK):
                    network(input_ids=torch.tensor(rows[first : first + _CHUNK]))

    return {
        "floor": floor,
        "quick": quick.encode,
        "float32": exact.encode,
        "onnx": onnx.encode,
    }


def _step_arms(model: Any) -> dict[str, Callable[[Sequence[str]], object]]:
    def steps(encode: Callable[[Sequence[str]], torch.Tensor], texts: Sequence[str]) -> None:
        for first in range(0, len(texts), _STEP):
            encode(texts[first : first + _STEP]).square().sum().backward()
            model.zero_grad()

    def by_characters(texts: Sequence[str]) -> torch.Tensor:
        order = sorted(texts, key=len)
        with quick_autocast():
            parts = [
                model(model.preprocess([encodable(text) for text in order[first : first + _CHUNK]]))
                for first in range(0, len(order), _CHUNK)
            ]
        return torch.cat([part["sentence_embedding"].float() for part in parts])

    return {
        "by tokens": lambda texts: steps(lambda some: quick_vectors(model, some), texts),
        "by characters": lambda texts: steps(by_characters, texts),
    }


def _compare(
    arms: dict[str, Callable[[Sequence[str]], object]], texts: Sequence[str], rounds: int
) -> None:
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for run in arms.values():
        run(texts[:_CHUNK])
    for _ in range(rounds):
        for name, run in arms.items():
            started = time.perf_counter()
            run(texts)
            spent[name].append((time.perf_counter() - started) * 1000 / len(texts))
    first = statistics.median(next(iter(spent.values())))
    print(f"{len(texts)} texts, {torch.get_num_threads()} threads")
    for name, times in spent.items():
        middle = statistics.median(times)
        print(f"{name:<14} {middle:6.2f} ms a text  {middle / first:5.2f} x {next(iter(spent))}")


if __name__ == "__main__":
    main()
