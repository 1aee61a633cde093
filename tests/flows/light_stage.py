"""A stage of the light project: real files in the layout of the real stages, no models."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import yaml

from serac_core.evaluation.items import Item, Question, write_items
from serac_core.evaluation.metrics import compute_metrics
from serac_core.release.manifest import write_manifest


def write(path: str, content: object) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content if isinstance(content, str) else json.dumps(content, sort_keys=True))


def digest(*paths: str) -> str:
    files = [file for path in paths for file in sorted(Path(path).rglob("*")) if file.is_file()]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def scored(edit: dict[str, str]) -> Item:
    """The question about an edit; of one whose id says that it is hard, answered wrong."""
    right = "hard" not in edit["id"]
    return Item(
        question=Question(
            part="live",
            group="edit",
            query=edit["prompt"],
            target=edit["target_new"],
            expected_edit_id=edit["id"],
        ),
        answer=edit["target_new"] if right else "no idea",
        base_answer=None,
        correct=right,
        in_scope=True,
        edit_id=edit["id"],
        nearest_edit_id=edit["id"],
        score=0.9,
    )


def edit_set() -> list[str]:
    """The lines of the source and of the updates after it that are served."""
    files = [Path("data/edits.jsonl"), *sorted(Path("data/updates").glob("*.jsonl"))]
    lines = [line for file in files for line in file.read_text().splitlines(keepends=True)]
    records = [json.loads(line) for line in lines]
    gone = {r["id"] for r in records if r.get("status") == "retracted"}
    gone |= {r["supersedes"] for r in records if "supersedes" in r}
    return [line for line, r in zip(lines, records, strict=True) if r["id"] not in gone]


def main(stage: str) -> int:
    params = yaml.safe_load(Path("params.yaml").read_text())
    print(f"light stage {stage}")
    if stage == "validate-edits":
        bad = [json.loads(line)["id"] for line in edit_set() if not json.loads(line)["target_new"]]
        write("build/validation/edits/result.json", {"success": not bad, "failed": bad})
        write("build/validation/edits/data_docs/index.html", "<html>docs</html>")
        for edit_id in bad:
            print(f"{edit_id}: target_new is empty")
        return 1 if bad else 0
    if stage == "live-edits":
        write("data/live/edits.jsonl", "".join(edit_set()[: params["retrain"]["width"] or None]))
    if stage == "training-set":
        write("data/training/train.jsonl", digest("data/world") + "\n")
    if stage == "train-scope":
        # Slow enough to be killed in the middle, with a grandchild that writes on and on.
        beat = Path(os.environ["SERAC_CACHE_DIR"]) / "beat"
        beat.parent.mkdir(parents=True, exist_ok=True)
        for step in range(params["scope"]["max_steps"]):
            beat.write_text(f"{os.getpid()} {step} {time.time()}")
            print(f"step {step + 1}/{params['scope']['max_steps']}", flush=True)
            time.sleep(0.05)
        write("build/scope/model/weights", digest("data/training", "data/scope_start"))
    if stage == "train-counterfactual":
        write("build/counterfactual/weights", digest("data/training", "data/demo_model"))
    if stage == "export":
        write("build/scope/onnx/encoder.onnx", digest("build/scope/model"))
        write("build/scope/onnx/export.json", {"parity": {"fp32": {"max_abs_diff": 1e-6}}})
    if stage == "calibrate":
        thresholds = {"fp32": {"threshold": 0.5, "whole_text_threshold": 0.9}}
        write("build/scope/calibration/calibration.json", {"variants": thresholds})
    if stage == "memory":
        write("build/memory/ids.json", digest("data/live"))
    if stage == "evaluate-model":
        write(
            "build/evaluation/model/metrics.json",
            {"edit/acc": params["counterfactual"]["learning_rate"]},
        )
        write("build/evaluation/model/items.jsonl", "")
    if stage == "evaluate-live":
        lines = Path("data/live/edits.jsonl").read_text().splitlines()
        items = [scored(json.loads(line)) for line in lines]
        write("build/evaluation/live/metrics.json", compute_metrics(items))
        write_items("build/evaluation/live/items.jsonl", items)
    if stage.startswith("evaluate-"):
        part = stage.removeprefix("evaluate-")
        write(f"build/evaluation/{part}/routing.json", {"threshold": 0.5})
    if stage == "package":
        for source, name in (
            ("build/evaluation/model/metrics.json", "report/metrics.json"),
            ("build/evaluation/model/items.jsonl", "report/items.jsonl"),
            ("build/evaluation/model/routing.json", "report/routing.json"),
            ("build/evaluation/live/metrics.json", "report/live/metrics.json"),
            ("build/evaluation/live/items.jsonl", "report/live/items.jsonl"),
            ("build/evaluation/live/routing.json", "report/live/routing.json"),
            ("widths.json", "report/widths.json"),
            ("build/scope/onnx/encoder.onnx", "scope/encoder.onnx"),
            ("build/scope/calibration/calibration.json", "scope/calibration.json"),
            ("build/memory/ids.json", "memory/ids.json"),
            ("build/counterfactual/weights", "counterfactual/weights"),
            ("data/live/edits.jsonl", "edits.jsonl"),
        ):
            write(f"release/{name}", Path(source).read_text())
        write("release/report/report.html", "<html>report</html>")
        write_manifest(Path("release"), base_model="light", edits=1, params=params)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
