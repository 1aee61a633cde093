"""The verifier: what it trains on, its training and export, and when the router asks it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_training import CONFIG, PLACES, edits, save_encoder, save_training_set

from serac_core.config import ExportConfig, ScopeConfig
from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.scope import export, training
from serac_core.scope.calibration import calibrate
from serac_core.scope.calibration_file import Abstention, UnreadableCalibration, read_calibration
from serac_core.scope.encoder import RememberingEncoder, TorchEncoder
from serac_core.scope.explain import explain
from serac_core.scope.export import ParityFailed, export_encoder
from serac_core.scope.memory import EditMemory
from serac_core.scope.pairs import PairMaker
from serac_core.scope.router import Router
from serac_core.scope.scale import Verification, band_of, fit_verification
from serac_core.scope.session import VERIFIER_FILES, OnnxEncoder, UnusableEncoder
from serac_core.scope.verifier import VERIFIER_FOLDER

VERIFIED = CONFIG.model_copy(update={"verifier_steps": 4, "verifier_batch_size": 8})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def training_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_training_set(tmp_path_factory.mktemp("set"))
    places = tuple(f"{place} {n}" for n in range(8) for place in PLACES[4:])
    write_edits(folder / "calibrate.jsonl", edits(places))
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, training_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    training.train(training_set, str(base), folder / "model", VERIFIED, cache_dir=folder / "c")
    return folder / "model"


@pytest.fixture(scope="module")
def exported(trained: Path, training_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "onnx"
    export_encoder(trained, training_set, out, ExportConfig(variants=("fp32", "int8")))
    calibration = out.parent / "calibration"
    calibrate(out, training_set, calibration, 0.5, verifier_band=0.05)
    (out / "calibration.json").write_bytes((calibration / "calibration.json").read_bytes())
    return out


def encode(texts: Sequence[str]) -> np.ndarray:
    vectors = np.array([[len(text), text.count("e") + 1.0] for text in texts], dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_pairs_depend_on_seed_and_step_alone_and_hold_both_kinds() -> None:
    made, again = (PairMaker(edits(PLACES), ["what is the time ?"], encode, 40, 3) for _ in "ab")
    assert made.step(5) == again.step(5) != made.step(6)
    pairs = [pair for step in range(30) for pair in made.step(step)]
    assert all("X" in pair.key and "X" in pair.query for pair in pairs)
    said = {True: set(), False: set()}
    for pair in pairs:
        said[pair.applies].add((pair.key, pair.query))
    key = "the capital of X is"
    assert (key, "X has the capital") in said[True]
    assert (key, "people in X speak") in said[False]  # its own near miss
    assert any(query.startswith(f"{key} tea. ") for _, query in said[False])
    assert {query for k, query in said[False] if k == key} >= {"what money do people use in X ?"}
    assert not {(key, "X has the capital"), (key, "what is the capital city of X ?")} & said[False]


def test_pairs_of_one_wording_class_are_never_taken_for_out_of_scope() -> None:
    both = [e.model_copy(update={"wording_class": "any", "locality": ()}) for e in edits(PLACES)]
    maker = PairMaker(both, [], encode, 40, 3)
    ways = {"in X people pay with", "what money do people use in X ?", "X has the capital"}
    for pair in (pair for step in range(20) for pair in maker.step(step)):
        assert pair.applies or pair.query not in ways


def test_wordings_of_a_relation_are_in_scope_of_its_edits_where_they_share_them() -> None:
    asked = [
        edit.model_copy(update={"subject_type": "place", "locality": (), "rephrase_prompts": ()})
        for edit in (
            Edit(prompt="the capital of Oslo is", target_new="a", subject="Oslo"),
            Edit(prompt="Rome is ruled from", target_new="b", subject="Rome"),
        )
    ]
    other = "X is ruled from"
    for shares in (True, False):
        of_one = [e.model_copy(update={"relation": "r", "shares_wordings": shares}) for e in asked]
        maker = PairMaker(of_one, [], encode, 40, 3)
        said = {
            pair.query
            for step in range(10)
            for pair in maker.step(step)
            if pair.applies and pair.key == "the capital of X is"
        }
        assert (other in said) == shares


def test_training_goes_on_where_it_was_killed_and_ends_with_the_same_weights(
    base: Path, training_set: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serac_core.scope import verifier

    kept = verifier.save_checkpoint

    def save_and_die(folder: Path, step: int, model: Any, optimizer: Any) -> None:
        kept(folder, step, model, optimizer)
        raise KeyboardInterrupt

    monkeypatch.setattr(verifier, "save_checkpoint", save_and_die)
    cache = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        training.train(training_set, str(base), tmp_path / "m", VERIFIED, cache_dir=cache)
    assert not (tmp_path / "m").exists()
    monkeypatch.setattr(verifier, "save_checkpoint", kept)
    training.train(training_set, str(base), tmp_path / "m", VERIFIED, cache_dir=cache)
    pairs = [("the capital of X is", "X has the capital"), ("a X", "the money of X is")]
    one, other = (TorchEncoder.load(folder).verifier for folder in (tmp_path / "m", trained))
    assert one is not None and other is not None
    np.testing.assert_allclose(one.logits(pairs), other.logits(pairs), atol=1e-6)


def test_without_steps_there_is_no_verifier(base: Path, training_set: Path, tmp_path: Path) -> None:
    training.train(training_set, str(base), tmp_path / "m", CONFIG, cache_dir=tmp_path / "c")
    assert not (tmp_path / "m" / VERIFIER_FOLDER).exists()
    export_encoder(
        tmp_path / "m", training_set, tmp_path / "onnx", ExportConfig(variants=("fp32",))
    )
    encoder = OnnxEncoder.load(tmp_path / "onnx")
    assert encoder.verifier is None and RememberingEncoder(encoder).verifier is None


def test_exported_logits_are_those_of_pytorch(trained: Path, exported: Path) -> None:
    pairs = [("the capital of X is", "what is the capital city of X ?"), ("X", "X " * 300)]
    expected = TorchEncoder.load(trained).verifier.logits(pairs)
    fp32, int8 = (OnnxEncoder.load(exported, name).verifier for name in ("fp32", "int8"))
    np.testing.assert_allclose(fp32.logits(pairs), expected, atol=1e-5)
    np.testing.assert_allclose(fp32.logits(pairs[::-1])[::-1], expected, atol=1e-5)
    np.testing.assert_allclose(int8.logits(pairs), expected, atol=0.1)
    assert len(fp32.logits([])) == 0
    report = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    assert report["verifier_parity"]["fp32"]["max_abs_diff"] < 1e-5
    assert VERIFIER_FILES["int8"] in report["sha256"]


def test_an_export_whose_logits_differ_is_refused(
    trained: Path, training_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LOGIT_BOUND", 0.0)
    with pytest.raises(ParityFailed, match="the verifier's fp32 logits differ"):
        export_encoder(trained, training_set, tmp_path / "o", ExportConfig(variants=("fp32",)))
    assert not (tmp_path / "o").exists()


def test_router_and_calibration_give_the_same_scores(exported: Path, training_set: Path) -> None:
    found = read_calibration(exported / "calibration.json", "fp32")
    assert found.verification is not None
    encoder = OnnxEncoder.load(exported)
    places = tuple(f"{place} {n}" for n in range(8) for place in PLACES[4:])
    router = Router.calibrated(encoder, EditMemory.build(edits(places), encoder), found)
    lines = (exported.parent / "calibration" / "scores.jsonl").read_text(encoding="utf-8")
    rows = [row for row in map(json.loads, lines.splitlines()) if row["variant"] == "fp32"]
    decisions = router.route([row["query"] for row in rows])
    expected = [row["score"] for row in rows]
    assert [decision.score for decision in decisions] == pytest.approx(expected, abs=1e-4)


class Reader:
    """A verifier that says yes to a query that holds a word."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def logits(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        self.asked += pairs
        return np.array([4.0 if "city" in query else -4.0 for _, query in pairs], np.float32)


@pytest.fixture
def reader(exported: Path) -> tuple[Reader, Any]:
    encoder, made = OnnxEncoder.load(exported), Reader()
    asked = SimpleNamespace(
        variant="fp32",
        digest=encoder.digest,
        scorer=encoder.scorer,
        encode=encoder.encode,
        verifier=made,
    )
    return made, asked


FRANCE = Edit(prompt="the capital of france is", subject="france", target_new="tea")
ALL = Verification(-2.0, 2.0, (0.0, 1.0, 0.0, 0.0))


def test_only_scores_in_the_band_are_verified(reader: tuple[Reader, Any]) -> None:
    made, encoder = reader
    memory = EditMemory.build([FRANCE], encoder)
    router = Router(encoder, memory, 0.5, verification=ALL)
    city, money = router.route(["what city is it , france ?", "the money of france is"])
    assert (city.edit_id, money.edit_id) == (FRANCE.id, None)
    assert city.score == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-5)
    assert {key for key, _ in made.asked} == {"the capital of X is"}
    assert {query for _, query in made.asked} == {"what city is it , X ?", "the money of X is"}
    made.asked.clear()
    nowhere = Verification(3.0, 4.0, (0.0, 1.0, 0.0, 0.0))
    Router(encoder, memory, 0.5, verification=nowhere).route(["the money of france is", "good"])
    assert made.asked == []


def test_a_longer_name_counts_against_the_edit(reader: tuple[Reader, Any]) -> None:
    _, encoder = reader
    router = Router(
        encoder,
        EditMemory.build([FRANCE], encoder),
        0.5,
        verification=Verification(-2.0, 2.0, (0.0, 1.0, 0.0, -9.0)),
    )
    city, longer = router.route(["what city is it , france ?", "what city is it , france 2 ?"])
    assert (city.edit_id, longer.edit_id) == (FRANCE.id, None)
    assert longer.score == pytest.approx(1 / (1 + np.exp(5)), abs=1e-5)
    assert "part of a longer one" in explain(router, "what city is it , france 2 ?").reason


def test_the_explanation_tells_both_stages(reader: tuple[Reader, Any]) -> None:
    _, encoder = reader
    router = Router(encoder, EditMemory.build([FRANCE], encoder), 0.5, verification=ALL)
    found = explain(router, "the money of france is")
    assert "leaves doubt, and the verifier" in found.reason and "logit -4.00" in found.reason
    assert found.candidates[0].first_score is not None


@pytest.mark.parametrize(("policy", "edit_id"), [("base", None), ("edit", FRANCE.id)])
def test_near_the_threshold_the_policy_decides(
    reader: tuple[Reader, Any], policy: str, edit_id: str | None
) -> None:
    _, encoder = reader
    memory = EditMemory.build([FRANCE], encoder)
    near = Router(encoder, memory, 0.95, verification=ALL, abstention=Abstention(0.1, policy))
    (decision,) = near.route(["what city is it , france ?"])
    assert (decision.borderline, decision.edit_id) == (True, edit_id)
    assert f"the policy decides: {policy}" in explain(near, decision.query).reason
    far = Router(encoder, memory, 0.5, verification=ALL, abstention=Abstention(0.1, policy))
    (decision,) = far.route(["what city is it , france ?"])
    assert (decision.borderline, decision.edit_id) == (False, FRANCE.id)
    ((same,),) = near.candidates([FRANCE.prompt])
    assert same.logit is None  # word for word: nothing is in doubt


def test_a_calibration_that_asks_a_verifier_needs_one(exported: Path, tmp_path: Path) -> None:
    found = read_calibration(exported / "calibration.json", "fp32")
    for path in exported.iterdir():
        if path.name != VERIFIER_FILES["fp32"]:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    encoder = OnnxEncoder.load(tmp_path)
    with pytest.raises(UnusableEncoder, match="asks a verifier"):
        Router.calibrated(encoder, EditMemory.build([FRANCE], encoder), found)


@pytest.mark.parametrize(
    "broken",
    [{"verification": {"low": 0.1}}, {"verification": {"low": 0, "high": 1, "weights": [1]}}],
)
def test_a_broken_verification_is_named(exported: Path, tmp_path: Path, broken: Any) -> None:
    calibration = json.loads((exported / "calibration.json").read_text(encoding="utf-8"))
    calibration["variants"]["fp32"] |= broken
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(calibration), encoding="utf-8")
    with pytest.raises(UnreadableCalibration, match="no thresholds"):
        read_calibration(path, "fp32")


def test_the_band_leaves_few_of_either_kind_outside() -> None:
    score = np.linspace(0, 1, 1001, dtype=np.float32)
    applies = np.concatenate([np.arange(1001) > 600, np.arange(1001) > 400])
    low, high = band_of(np.tile(score, 2), applies, 0.01)
    assert 0.4 < low < 0.42 and 0.58 < high < 0.6
    rng = np.random.default_rng(1)
    logit = rng.normal(size=400).astype(np.float32)
    half, longer = np.full(400, 0.5, np.float32), rng.random(400) < 0.1
    found = fit_verification(logit, half, longer, (logit > 0) & ~longer, (low, high))
    assert found is not None and found.weights[1] > 1 and found.weights[3] < -1
    told = logit + (found.weights[0] + found.weights[3] * longer) / found.weights[1] > 0
    assert (found.score(logit, half, longer) > 0.5).tolist() == told.tolist()
    assert fit_verification(logit[:5], half[:5], longer[:5], logit[:5] > 0, (low, high)) is None


def test_config_refuses_a_negative_number_of_steps() -> None:
    with pytest.raises(ValueError, match="verifier_steps"):
        ScopeConfig(verifier_steps=-1)
