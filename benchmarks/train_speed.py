"""How fast training is, beside EasyEdit's loop on the same models and edits, in one run.

    python benchmarks/train_speed.py [--edits FILE] [--start ""] [--reference LR,BATCHES] [-o FILE]

Ours trains as `serac train scope` and then `serac train counterfactual` do, with the settings of
params.yaml; the references (`benchmarks/reference_loop.py`) start from the same weights. They take
turns of a few seconds, so that what else the machine does hits all alike. Seconds are those of the
clock and of the processor, in turns of one's own only; measuring is not counted. On a machine that
does other things the second are the ones to compare.

`edit/acc` is the mean share of a target's tokens that the edited model says, all edits in memory,
each asked by its prompt: ours through export, calibration, memory and router. A sample is measured
every few steps, all edits where it is near the goal. Time to the goal counts, of ours, all of scope
training and the counterfactual model's steps up to it; beside it these steps alone, for an edit's
own prompt is the easiest query to route, and what scope training is for isn't asked of either.

An edit of scope training is three texts, as many different ones as the reference's classifier reads
of an edit (query, key, probe); one of counterfactual training is an example. Floors are a forward
and a backward pass of the same batches, without loss (scope), optimizer or log, right after the
steps that they are compared with; of memory building, the encoder passes alone. The rate of a
training is that of all it does, its own figures and checkpoints included; the rate of its steps is
that of the median step.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from reference_loop import ReferenceLoop
from turns import PLACES, Phase, Progress, Rival, Stopwatch, rates_of

from serac_core.base.language_model import LanguageModel, answer_logits
from serac_core.config import CalibrationConfig, Params, load_params
from serac_core.counterfactual.examples import TrainingExamples
from serac_core.counterfactual.model import CounterfactualModel
from serac_core.counterfactual.training import train as train_counterfactual
from serac_core.edits.atomic import write_atomically
from serac_core.edits.jsonl import read_active_edits, write_edits
from serac_core.edits.record import Edit
from serac_core.edits.training_set import write_training_set
from serac_core.evaluation.speed_table import machine_facts
from serac_core.progress import tell
from serac_core.scope.batches import Batch, BatchMaker
from serac_core.scope.calibration import calibrate
from serac_core.scope.calibration_file import read_calibration
from serac_core.scope.encoder import quick_autocast
from serac_core.scope.export import export_encoder
from serac_core.scope.memory import EditMemory
from serac_core.scope.memory_segment import EditRows
from serac_core.scope.memory_store import build_memories, exported_encoders
from serac_core.scope.probes import read_traffic
from serac_core.scope.router import Router
from serac_core.scope.session import OnnxEncoder
from serac_core.scope.start import load_begun
from serac_core.scope.training import freeze
from serac_core.scope.training import train as train_scope

TEXTS_OF_AN_EDIT = 3
_CHUNK = 64  # texts of a pass, as in `quick_vectors`
_WITHOUT_START = {"max_steps": 300, "learning_rate": 6e-4}  # as params.yaml says


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=Path, help="instead of the built-in training set's")
    parser.add_argument("--number", type=int, default=1000, help="edits trained on and in memory")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--world", type=Path, default=Path("data/world"))
    parser.add_argument("--start", help='instead of models.scope_start; "": 300 steps without')
    parser.add_argument(
        "--reference",
        action="append",
        help="learning rate and batches a step of a reference; repeatable [1e-5,10 and 3e-4,1]",
    )
    parser.add_argument("--goal", type=float, default=0.9985, help="edit/acc")
    parser.add_argument("--cap", type=float, default=1200, help="seconds a reference may train")
    parser.add_argument("--turn", type=float, default=5, help="seconds")
    parser.add_argument("--measure-every", type=int, default=10, help="steps of a reference")
    parser.add_argument("--steps", type=int, help="rates alone: so many steps of each training")
    parser.add_argument("-o", "--out", type=Path, help="JSON file of all figures")
    asked = parser.parse_args()
    params = load_params(asked.params)
    if asked.start is not None:
        models = params.models.model_copy(update={"scope_start": asked.start})
        scope = params.scope if asked.start else params.scope.model_copy(update=_WITHOUT_START)
        params = params.model_copy(update={"models": models, "scope": scope})
    if asked.steps is not None:
        shorter = {"max_steps": asked.steps}
        parts = {name: getattr(params, name) for name in ("scope", "counterfactual")}
        cut = {name: part.model_copy(update=shorter) for name, part in parts.items()}
        params = params.model_copy(update=cut)
    with tempfile.TemporaryDirectory() as scratch:
        found = compare(params, asked, Path(scratch))
    print("\n".join(table(found)))
    if asked.out:
        text = json.dumps(found, indent=1) + "\n"
        write_atomically(asked.out, [text.encode()])


def compare(params: Params, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train all, in turns; every figure."""
    machine = machine_facts(torch.get_num_threads())
    training_set = folder / "training"
    if not training_set.is_dir():
        write_training_set(asked.world, training_set, params)
    known = read_active_edits([asked.edits or training_set / "train.jsonl"])
    edits = Random(params.seed).sample(known, min(asked.number, len(known)))
    write_edits(training_set / "train.jsonl", edits)

    base = LanguageModel.load(params.models.base, "cpu", "float32")
    rivals = []
    for given in asked.reference or ("1e-5,10", "3e-4,1"):
        rate, _, batches = given.partition(",")
        loop = ReferenceLoop(
            base,
            LanguageModel.load(params.models.counterfactual, "cpu", "float32"),
            load_begun(params.models.encoder, params.models.scope_start),
            edits,
            learning_rate=float(rate),
            accumulate=int(batches),
            seed=params.seed,
        )
        rivals.append(Rival(f"reference {given}", loop, edits, asked))

    found = {
        "schema": 1,
        "edits": len(edits),
        "goal": asked.goal,
        "cap": asked.cap,
        "start": params.models.scope_start,
        "machine": machine,
        **_train_ours(params, edits, folder, rivals, asked),
    }
    while not all(rival.done for rival in rivals):
        for rival in rivals:
            rival.run_for(asked.turn)
    machine["load_average_after"] = round(os.getloadavg()[0], 2)
    found["references"] = {rival.name: rival.as_dict() for rival in rivals}
    for reference in found["references"].values():
        reference["times_faster"] = _times_faster(found["ours"], reference)
    return found


def _times_faster(ours: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """Of a reference that is not at the goal, how many times sooner ours is there at least."""
    times = {}
    until = reference["reached"] or reference
    for place in PLACES:
        for rate in (f"edits_per_{place}", f"edits_per_{place}_of_steps"):
            times[rate] = ours[rate] / reference[rate]
        for name in ("reached", "reached_by_counterfactual_alone"):
            if ours[name]:
                times[f"{name}_{place}s"] = until[f"{place}s"] / ours[name][f"{place}s"]
    return times


def _train_ours(
    params: Params,
    edits: Sequence[Edit],
    folder: Path,
    rivals: Sequence[Rival],
    asked: argparse.Namespace,
) -> dict[str, Any]:
    training_set, cache = folder / "training", folder / "cache"
    phases: dict[str, dict[str, Any]] = {}

    def done(name: str, phase: dict[str, Any]) -> None:
        phases[name] = phase
        tell(f"{name}: {json.dumps(phase)}")
        for rival in rivals:
            tell(f"{rival.name}: {rival.said()}")

    start = LanguageModel.load(params.models.counterfactual, "cpu", "float32")
    steps, size = params.counterfactual.max_steps, params.counterfactual.batch_size
    with Stopwatch() as watch:
        batches = _scope_batches(params, edits, training_set)
    done("data, scope", rates_of(watch, sum(map(_edits_of, batches))))
    with Stopwatch() as watch:
        examples = TrainingExamples(edits, start, steps=steps, batch_size=size, seed=params.seed)
        drawn = [examples[place] for place in range(len(examples))]
    done("data, counterfactual", rates_of(watch, len(drawn)))

    scope = Phase(
        rivals,
        asked.turn,
        lambda step: _edits_of(batches[step - 1]),
        _scope_floor(params, batches),
    )
    with scope.watch:
        train_scope(
            training_set,
            params.models.encoder,
            folder / "scope",
            params.scope,
            start=params.models.scope_start,
            seed=params.seed,
            cache_dir=cache,
            after_step=scope.after_step,
        )
    done("scope", scope.as_dict())

    def serve() -> None:
        with Stopwatch() as watch:
            export_encoder(folder / "scope", training_set, folder / "onnx", params.export)
        done("export", rates_of(watch, len(edits)))
        with Stopwatch() as watch:
            build_memories(edits, folder / "onnx", folder / "memory", cache)
        keys = EditRows.of(edits)[1]
        with Stopwatch() as floor:
            for encoder in exported_encoders(folder / "onnx", params.export.provider).values():
                encoder.encode(keys, batch_size=1)
        ratios = {
            "floor_ratio": watch.clock / floor.clock,
            "floor_processor_ratio": watch.processor / floor.processor,
        }
        done("memory", {**rates_of(watch, len(edits)), **ratios})

    accuracy = None
    if not asked.steps:
        serve()
        accuracy = _EditedAccuracy(params, edits, folder)
    progress = Progress(asked.goal)
    before = scope.watch.reading()

    def look(step: int, model: CounterfactualModel, spent: tuple[float, float]) -> None:
        if accuracy and not progress.reached and step % max(1, asked.measure_every // 2) == 0:
            model.language_model.model.eval()
            progress.measure("ours", step, spent, edits, lambda some: accuracy.of(model, some))

    counterfactual = Phase(
        rivals, asked.turn, lambda _: size, _counterfactual_floor(start, drawn, size), look
    )
    with counterfactual.watch:
        train_counterfactual(
            training_set,
            params.models.counterfactual,
            folder / "counterfactual",
            params.counterfactual.model_copy(update={"reader_steps": 0}),  # EasyEdit has none
            seed=params.seed,
            cache_dir=cache,
            device="cpu",
            after_step=counterfactual.after_step,
        )
    done("counterfactual", counterfactual.as_dict())
    if asked.steps:
        serve()
    own = counterfactual.watch.reading()
    ours: dict[str, Any] = {
        "seconds": round(before[0] + own[0], 3),
        "processor_seconds": round(before[1] + own[1], 3),
        "curve": progress.curve,
        "reached": None,
        "reached_by_counterfactual_alone": progress.reached,
    }
    if progress.reached:
        ours["reached"] = progress.reached | {
            "seconds": progress.reached["seconds"] + before[0],
            "processor_seconds": progress.reached["processor_seconds"] + before[1],
        }
    if accuracy:
        trained = CounterfactualModel.load(folder / "counterfactual", "cpu", "float32")
        ours["edit/acc"] = accuracy.of(trained, edits)
        ours["routed_to_own_edit"] = accuracy.routed_right
    for place in PLACES:
        for rate in (f"edits_per_{place}", f"edits_per_{place}_of_steps"):
            ours[rate] = 1 / sum(1 / phases[name][rate] for name in ("scope", "counterfactual"))
    return {"phases": phases, "ours": ours}


def _scope_batches(params: Params, edits: Sequence[Edit], training_set: Path) -> list[Batch]:
    traffic = read_traffic(training_set / "traffic.jsonl", "train")
    settings = params.scope
    maker = BatchMaker(
        edits, traffic, settings.batch_size, params.seed, evenly=settings.relations_evenly
    )
    return [maker.batch(step) for step in range(settings.max_steps)]


def _edits_of(batch: Batch) -> float:
    return len(batch.texts) / TEXTS_OF_AN_EDIT


class _EditedAccuracy:
    """`edit/acc` through a router whose memory holds all edits."""

    def __init__(self, params: Params, edits: Sequence[Edit], folder: Path) -> None:
        self._base = LanguageModel.load(params.models.base, "cpu", "float32")
        _calibrate(params.calibration, folder)
        encoder = OnnxEncoder.load(folder / "onnx", "fp32", params.export.provider)
        memory = EditMemory.load(folder / "memory", encoder.digest)
        thresholds = read_calibration(folder / "calibration" / "calibration.json", "fp32")
        router = Router.calibrated(encoder, memory, thresholds)
        by_id = {edit.id: edit for edit in edits}
        self._met: dict[str, Edit | None] = {
            edit.id: by_id[decision.edit_id] if decision.edit_id else None
            for edit, decision in zip(
                edits, router.route([edit.prompt for edit in edits]), strict=True
            )
        }
        self.routed_right = fmean(
            met is not None and met.id == id_ for id_, met in self._met.items()
        )

    def of(self, model: CounterfactualModel, edits: Sequence[Edit]) -> float:
        routed = [(edit, self._met[edit.id]) for edit in edits]
        inside = [(edit, met) for edit, met in routed if met is not None]
        outside = [edit for edit, met in routed if met is None]
        scores = model.score(
            [met for _, met in inside],
            [edit.prompt for edit, _ in inside],
            [edit.target_new for edit, _ in inside],
        ) + self._base.score(
            [edit.prompt for edit in outside], [edit.target_new for edit in outside]
        )
        return fmean(score.accuracy for score in scores)


def _calibrate(settings: CalibrationConfig, folder: Path) -> None:
    calibrate(
        folder / "onnx",
        folder / "training",
        folder / "calibration",
        settings.target_false_route,
        max_probes_routed=settings.max_probes_routed,
        misroute_cost=settings.misroute_cost,
        verifier_band=settings.verifier_band,
        edits_in_memory=settings.edits_in_memory,
    )


def _scope_floor(params: Params, batches: Sequence[Batch]) -> Callable[[int], tuple[float, float]]:
    """Both passes of the encoder over a step's texts, in the parts that `quick_vectors` makes."""
    model = load_begun(params.models.encoder, params.models.scope_start).eval()
    freeze(model, params.scope)
    network: Any = model[0].auto_model
    if hasattr(network, "set_attn_implementation"):
        network.set_attn_implementation("eager")

    def floor(step: int) -> tuple[float, float]:
        texts = batches[step - 1].texts
        tokens = model.tokenizer(list(texts))["input_ids"]
        order = sorted(texts, key=dict(zip(texts, map(len, tokens), strict=True)).__getitem__)
        parts = [
            model.tokenizer(order[first : first + _CHUNK], padding=True, return_tensors="pt")
            for first in range(0, len(order), _CHUNK)
        ]
        with Stopwatch() as watch:
            with quick_autocast():
                vectors = [network(**part).last_hidden_state.mean(1) for part in parts]
            torch.cat(vectors).float().square().sum().backward()
        model.zero_grad()
        return watch.reading()

    return floor


def _counterfactual_floor(
    language_model: LanguageModel, drawn: Sequence[Any], size: int
) -> Callable[[int], tuple[float, float]]:
    """Both passes of the model over a step's examples."""

    def floor(step: int) -> tuple[float, float]:
        rows = drawn[(step - 1) * size : step * size]
        inputs = language_model.collate([example.pair for example in rows])
        labels_BK = inputs.pop("labels")
        with Stopwatch() as watch:
            with quick_autocast():
                logits_BKV = answer_logits(language_model.model, inputs, labels_BK.shape[1])
            torch.nn.functional.cross_entropy(
                logits_BKV.float().flatten(0, 1), labels_BK.flatten()
            ).backward()
        language_model.model.zero_grad()
        return watch.reading()

    return floor


def table(found: dict[str, Any]) -> list[str]:
    """The figures for people."""
    machine = found["machine"]
    lines = [
        f"{found['edits']} edits, {machine['threads']} threads, load {machine['load_average']} to "
        f"{machine['load_average_after']}, scope start {found['start'] or 'none'}; seconds of the "
        "clock, in brackets of the processor",
        f"{'':<24} {'edits':>7} {'seconds':>17} {'edits/s':>17} {'of steps':>17} "
        f"{'times the floor':>16}",
    ]
    for name, phase in found["phases"].items():
        floor = ""
        if "floor_ratio" in phase:
            floor = f"{phase['floor_ratio']:.2f} ({phase['floor_processor_ratio']:.2f})"
        lines.append(
            f"{name:<24} {phase['edits']:7.0f} {_spent(phase)} {_rate(phase)} "
            f"{_rate(phase, '_of_steps'):>17} {floor:>16}".rstrip()
        )
    ours = found["ours"]
    of_steps = _rate(ours, "_of_steps")
    lines.append(f"{'ours, both trainings':<24} {'':>7} {_spent(ours)} {_rate(ours)} {of_steps}")
    for name, reference in found["references"].items():
        lines.append(
            f"{name:<24} {reference['edits']:7.0f} {_spent(reference)} {_rate(reference)} "
            f"{_rate(reference, '_of_steps')}"
        )
    if ours["curve"]:
        lines += ["", f"To edit/acc >= {found['goal']}:"]
        for name, one in (("ours", ours), *found["references"].items()):
            last = one["reached"] or one["curve"][-1]
            lines.append(
                f"{name:<24} step {last['step']:>5.0f} {_spent(last)}  {last['edit/acc']:.5f} of "
                f"{last['edits']:.0f} edits{'' if one['reached'] else ', not reached'}"
            )
    lines.append("")
    for name, reference in found["references"].items():
        times = reference["times_faster"]
        bound = "" if reference["reached"] else "at least "
        lines += [
            f"{name}: ours does {_times(times, 'edits_per_second')} as many edits a second,",
            f"  {_times(times, 'edits_per_second_of_steps')} in its steps",
        ]
        if "reached_seconds" in times:
            lines += [
                f"  is at the goal {bound}{_times(times, 'reached_seconds')} sooner,",
                f"  the counterfactual model alone {bound}"
                f"{_times(times, 'reached_by_counterfactual_alone_seconds')}",
            ]
    return lines


def _times(times: dict[str, float], name: str) -> str:
    of_processor = times[name.replace("second", "processor_second")]
    return f"{times[name]:.1f} ({of_processor:.1f}) times"


def _spent(found: dict[str, Any]) -> str:
    return f"{found['seconds']:8.1f} ({found['processor_seconds']:6.1f})"


def _rate(found: dict[str, Any], of: str = "") -> str:
    """Empty where there is none."""
    if f"edits_per_second{of}" not in found:
        return ""
    clock, processor = (found[f"edits_per_{place}{of}"] for place in PLACES)
    return f"{clock:8.1f} ({processor:6.1f})"


if __name__ == "__main__":
    main()
