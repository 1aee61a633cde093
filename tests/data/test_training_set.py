"""The splits leak nothing: subjects, phrasings and relations stay in their fold."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from serac_core.config import Params, TrainingSetConfig
from serac_core.edits.record import Edit, normalize_text
from serac_core.edits.training_set import (
    TrainingSetError,
    fold_of,
    make_training_set,
    write_training_set,
)
from serac_core.edits.world import World, WorldError, load_world

WORLD = Path(__file__).parents[2] / "data" / "world"


@pytest.fixture(scope="module")
def world() -> World:
    return load_world(WORLD)


@pytest.fixture(scope="module")
def folds(world: World) -> dict[str, list[Edit]]:
    return dict(make_training_set(world, TrainingSetConfig(), seed=17))


def queries(edit: Edit) -> list[str]:
    return [edit.prompt, *edit.rephrase_prompts, *(p.prompt for p in edit.locality)]


@pytest.fixture(scope="module")
def facts(world: World) -> dict[str, tuple[str, str]]:
    """Every wording of every fact, and of what is only asked -> (relation, subject)."""
    subjects: dict[str, set[str]] = defaultdict(set)
    for relation, subject, _ in world.facts():
        subjects[relation.subject_type].add(subject)
    for subject_type, names in world.named_subjects.items():
        subjects[subject_type].update(names)
    found = {
        normalize_text(phrasing.format(subject=subject)): (relation.name, normalize_text(subject))
        for relation in world.asked_relations
        for subject in subjects[relation.subject_type]
        for phrasing in relation.phrasings
    }
    return found | {
        normalize_text(phrasing.format(subject=subject)): (relation.name, normalize_text(subject))
        for relation, subject, _ in world.facts()
        for phrasing in (
            *relation.phrasings,
            *relation.edits_only_phrasings,
            *relation.held_out_phrasings,
            *relation.held_out_edits_only_phrasings,
        )
    }


def without_lead_in(query: str, known: dict[str, object]) -> str:
    """The query as the world words it, a lead-in sentence taken off."""
    text = normalize_text(query)
    while text not in known:
        shorter = re.sub(r"^[^:.]*[:.] ", "", text, count=1)
        assert shorter != text, query
        text = shorter
    return text


def test_the_world_is_as_large_as_promised(world: World) -> None:
    assert len(world.relations) >= 12
    assert sum(1 for _ in world.facts()) >= 1500
    for relation in world.relations:
        assert len(relation.phrasings) >= 8
        assert len(relation.held_out_phrasings) >= 2
        assert 0 < sum(p.endswith("?") for p in relation.phrasings) < len(relation.phrasings)


def test_sizes_are_those_asked_for(folds: dict[str, list[Edit]]) -> None:
    sizes = TrainingSetConfig()
    assert [len(folds[f]) for f in ("train", "val", "calibrate", "test")] == [
        sizes.train_edits + sizes.asked_edits,
        sizes.val_edits,
        sizes.calibrate_edits + sizes.asked_edits // 5,
        sizes.test_edits,
    ]


def test_no_subject_in_two_folds(
    folds: dict[str, list[Edit]], facts: dict[str, tuple[str, str]]
) -> None:
    owner: dict[str, set[str]] = defaultdict(set)
    for fold, edits in folds.items():
        for edit in edits:
            for query in queries(edit):
                owner[facts[without_lead_in(query, facts)][1]].add(fold)
    assert not {subject: names for subject, names in owner.items() if len(names) > 1}


def test_held_out_relations_only_in_test(
    folds: dict[str, list[Edit]], world: World, facts: dict[str, tuple[str, str]]
) -> None:
    split = {relation.name: relation.split for relation in world.relations}
    split |= {relation.name: "asked" for relation in world.asked_relations}
    for fold, edits in folds.items():
        seen = {split[facts[without_lead_in(q, facts)][0]] for e in edits for q in queries(e)}
        allowed = {
            "train": {"train", "asked"},
            "val": {"train"},
            "calibrate": {"train", "calibrate", "asked"},
        }
        assert seen == allowed.get(fold, {"train", "held_out"})


def test_relations_without_facts_serve_one_fold_each(folds: dict[str, list[Edit]]) -> None:
    serving: dict[str, set[str]] = defaultdict(set)
    for fold, edits in folds.items():
        for edit in edits:
            extra = edit.model_extra or {}
            if extra["origin"] == "phrasings":
                serving[extra["relation"]].add(fold)
    assert len(serving) > 150
    assert {name for names in serving.values() for name in names} == {"train", "calibrate"}
    assert all(len(names) == 1 for names in serving.values())


def test_held_out_phrasings_only_in_test(
    folds: dict[str, list[Edit]], world: World, facts: dict[str, tuple[str, str]]
) -> None:
    held_out = {
        normalize_text(phrasing.format(subject=subject))
        for relation, subject, _ in world.facts()
        for phrasing in (
            *relation.held_out_phrasings,
            *relation.held_out_edits_only_phrasings,
        )
    }
    for fold in ("train", "val", "calibrate"):
        for edit in folds[fold]:
            for query in queries(edit):
                assert without_lead_in(query, facts) not in held_out
    for edit in folds["test"]:
        assert edit.rephrase_prompts
        for query in edit.rephrase_prompts:
            assert without_lead_in(query, facts) in held_out


def test_calibration_phrasings_are_not_trained_on(
    folds: dict[str, list[Edit]], world: World, facts: dict[str, tuple[str, str]]
) -> None:
    """Nor are those of `val`, whose figures would mean nothing."""
    trained = {without_lead_in(query, facts) for edit in folds["train"] for query in queries(edit)}
    reserved = {
        normalize_text(phrasing.format(subject=subject))
        for relation, subject, _ in world.facts()
        for phrasing in (
            *relation.calibration_phrasings,
            *relation.edits_only_of("calibrate"),
            *relation.edits_only_of("val"),
        )
    }
    assert not trained & reserved


def test_no_probe_is_in_the_scope_of_an_edit_of_its_file(
    folds: dict[str, list[Edit]], facts: dict[str, tuple[str, str]]
) -> None:
    for edits in folds.values():
        edited = {facts[without_lead_in(edit.prompt, facts)] for edit in edits}
        assert len(edited) == len(edits)
        for edit in edits:
            own_relation, own_subject = facts[without_lead_in(edit.prompt, facts)]
            for probe in edit.locality:
                relation, subject = facts[without_lead_in(probe.prompt, facts)]
                assert (relation, subject) not in edited
                assert (subject == own_subject) == (probe.kind == "same_subject")
                assert (relation == own_relation) == (probe.kind == "same_relation")


def test_targets_are_new_and_not_given_away(folds: dict[str, list[Edit]]) -> None:
    for edits in folds.values():
        for edit in edits:
            if edit.ground_truth is None:
                assert (edit.model_extra or {})["origin"] == "phrasings"
            else:
                assert normalize_text(edit.target_new) != normalize_text(edit.ground_truth)
    trained = {normalize_text(edit.target_new) for edit in folds["train"]}
    for edit in folds["test"]:
        extra = edit.model_extra or {}
        assert extra["target_in_training"] == (normalize_text(edit.target_new) in trained)
    assert sum(not (e.model_extra or {})["target_in_training"] for e in folds["test"]) > 100
    assert sum((e.model_extra or {})["target_words"] > 1 for e in folds["test"]) > 100


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    write_training_set(WORLD, first, Params())
    write_training_set(WORLD, second, Params())
    write_training_set(WORLD, other, Params(seed=18))
    names = sorted(file.name for file in first.iterdir())
    assert names == [
        "calibrate.jsonl",
        "summary.json",
        "test.jsonl",
        "traffic.jsonl",
        "train.jsonl",
        "val.jsonl",
    ]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert (first / "test.jsonl").read_bytes() != (other / "test.jsonl").read_bytes()


def test_folds_of_subjects_depend_on_the_text_alone() -> None:
    assert fold_of("France") == fold_of("  france ") == fold_of("FRANCE")


def test_a_world_too_small_says_how_many_facts_there_are(world: World) -> None:
    with pytest.raises(TrainingSetError, match=r"train_edits is 99999, but the world has \d+"):
        make_training_set(world, TrainingSetConfig(train_edits=99_999), seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "some"}, "split 'some'"),
        ({"phrasings": {"train": ["What is it?"], "held_out": []}}, "phrasing 'What is it?'"),
        ({"facts": {"France": " "}}, "fact 'France'"),
        ({"facts": None}, "TypeError"),
    ],
)
def test_a_bad_relation_file_is_named(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    data = json.loads((WORLD / "capital.json").read_text(encoding="utf-8"))
    (tmp_path / "capital.json").write_text(json.dumps({**data, **change}), encoding="utf-8")
    (tmp_path / "traffic.txt").write_text("How are you?\n")
    with pytest.raises(WorldError, match=r"capital\.json") as caught:
        load_world(tmp_path)
    assert message in str(caught.value)


def test_one_phrasing_in_two_relations_is_refused(tmp_path: Path) -> None:
    data = json.loads((WORLD / "capital.json").read_text(encoding="utf-8"))
    for name in ("capital", "twin"):
        content = json.dumps({**data, "relation": name})
        (tmp_path / f"{name}.json").write_text(content, encoding="utf-8")
    (tmp_path / "traffic.txt").write_text("How are you?\n")
    with pytest.raises(WorldError, match="stands in capital and twin"):
        load_world(tmp_path)


def test_a_relation_whose_subjects_nobody_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "capital.json").write_bytes((WORLD / "capital.json").read_bytes())
    (tmp_path / "traffic.txt").write_text("How are you?\n")
    (tmp_path / "phrasings").mkdir()
    asked: dict[str, Any] = {
        "relation": "comet_period",
        "subject_type": "comet",
        "phrasings": [
            "How often does {subject} return?",
            "How long does {subject} take for a round?",
            "{subject} returns every",
        ],
    }
    comets = tmp_path / "phrasings" / "comet.jsonl"
    comets.write_text(json.dumps(asked) + "\n")
    with pytest.raises(WorldError, match="line 1: relation 'comet_period' has 3 phrasings"):
        load_world(tmp_path)
    asked["phrasings"].append("{subject} comes round again after")
    comets.write_text(json.dumps(asked) + "\n")
    with pytest.raises(WorldError, match="'comet', of which no subject is named"):
        load_world(tmp_path)
    (tmp_path / "subjects").mkdir()
    (tmp_path / "subjects" / "comet.txt").write_text("Halley's Comet\n\nEncke\n")
    assert load_world(tmp_path).named_subjects == {"comet": ("Halley's Comet", "Encke")}


def test_asked_edits_are_worded_plainly_and_calibrated_on_six_rephrasings_at_most(
    world: World, folds: dict[str, list[Edit]]
) -> None:
    plain = {relation.name: relation.plain_phrasings for relation in world.asked_relations}
    for fold in ("train", "calibrate"):
        asked = [edit for edit in folds[fold] if edit.model_extra["origin"] == "phrasings"]
        for edit in asked:
            wordings = [p.format(subject=edit.subject) for p in plain[edit.model_extra["relation"]]]
            assert edit.prompt in wordings
        most = max(len(edit.rephrase_prompts) for edit in asked)
        assert most == 6 if fold == "calibrate" else most > 6
