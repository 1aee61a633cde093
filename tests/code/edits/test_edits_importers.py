"""Benchmark formats into edits."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from serac_core.edits.importers import Format, UnreadableBenchmark, import_edits


def saved(tmp_path: Path, records: Any, name: str = "source.json") -> Path:
    path = tmp_path / name
    text = json.dumps(records).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


KNOWEDIT = {
    "subject": "Lake Orrin",
    "prompt": "The country of Lake Orrin is",
    "target_new": "Norway",
    "ground_truth": ["Sweden", "Kingdom of Sweden"],
    "rephrase": "Lake Orrin lies in the country",
    "portability": {
        "Reasoning": [{"prompt": "The capital there is", "ground_truth": [["Oslo", "Kristiania"]]}],
        "Subject_Aliasing": [{"prompt": "Orrinsjö lies in", "ground_truth": "Norway"}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "Lake Orrin was mapped in", "ground_truth": "1901"}],
        "Forgetfulness": [{"prompt": "Before, Lake Orrin lay in", "ground_truth": "Sweden"}],
    },
}


def test_knowedit(tmp_path: Path) -> None:
    wikibio = {
        "concept": "Ada Vik",
        "text": "This is about Ada Vik.",
        "labels": "Ada",
        "locality": {},
    }
    first, second = import_edits(saved(tmp_path, [KNOWEDIT, wikibio], "k.json.gz"), "knowedit")
    assert (first.prompt, first.target_new) == ("The country of Lake Orrin is", "Norway")
    assert (first.subject, first.ground_truth) == ("Lake Orrin", "Sweden")
    assert first.model_extra == {"ground_truth_aliases": ["Kingdom of Sweden"]}
    assert first.rephrase_prompts == ("Lake Orrin lies in the country",)
    assert [(p.kind, p.ground_truth) for p in first.locality] == [
        ("same_subject", "1901"),
        ("same_subject", "Sweden"),
    ]
    assert [(p.ground_truth, p.model_extra) for p in first.portability] == [
        ("Oslo", {"aliases": ["Kristiania"], "name": "Reasoning"}),
        ("Norway", {"name": "Subject_Aliasing"}),
    ]
    assert (second.subject, second.prompt) == ("Ada Vik", "This is about Ada Vik.")
    assert second.target_new == "Ada"


def test_easyedit_requests(tmp_path: Path) -> None:
    record = {
        "case_id": 3,
        "prompt": "Who leads Brill?",
        "target_new": "Ann",
        "rephrase_prompt": "Brill is led by",
        "locality_prompt": "Who leads Moss?",
        "locality_ground_truth": "Bo",
        "locality": {
            "neighborhood": {
                "prompt": ["Who leads Fen?", "Who leads Tor?"],
                "ground_truth": ["C", "D"],
            },
            "distracting": {"prompt": "Brill? Ann. Who leads Moss?", "ground_truth": "Bo"},
        },
        "portability": {"one_hop": {"prompt": "Brill's leader lives in", "ground_truth": "Rome"}},
    }
    (edit,) = import_edits(saved(tmp_path, [record]), "easyedit")
    assert edit.rephrase_prompts == ("Brill is led by",)
    assert [(p.prompt, p.ground_truth, p.kind) for p in edit.locality] == [
        ("Who leads Fen?", "C", "same_relation"),
        ("Who leads Tor?", "D", "same_relation"),
        ("Brill? Ann. Who leads Moss?", "Bo", "distracting"),
        ("Who leads Moss?", "Bo", "unrelated"),
    ]
    assert [(p.prompt, p.model_extra) for p in edit.portability] == [
        ("Brill's leader lives in", {"name": "one_hop"})
    ]
    assert edit.model_extra == {"case_id": 3}


def rewrite(subject: str, new: str, true: str, **more: str) -> dict[str, Any]:
    return {
        "prompt": "{} is a citizen of",
        "subject": subject,
        "relation_id": "P27",
        "target_new": {"str": new, "id": "Q1"},
        "target_true": {"str": true, "id": "Q2"},
        **more,
    }


def test_counterfact_original_and_flat(tmp_path: Path) -> None:
    original = {
        "case_id": 0,
        "requested_rewrite": rewrite("Ole Dahl", "Chile", "Norway"),
        "paraphrase_prompts": ["Ole Dahl holds a passport of"],
        "neighborhood_prompts": ["Una Lie is a citizen of"],
        "attribute_prompts": ["Pia Rojas is a citizen of"],
    }
    flat = {
        "prompt": "Kim Moe plays the",
        "target_new": "piano",
        "subject": "Kim Moe",
        "ground_truth": "guitar",
        "rephrase_prompt": "Kim Moe is good at the",
        "locality_prompt": "Jo Ek plays the",
        "locality_ground_truth": "guitar",
    }
    first, second = import_edits(saved(tmp_path, [original, flat]), "counterfact")
    assert (first.prompt, first.target_new) == ("Ole Dahl is a citizen of", "Chile")
    assert first.ground_truth == "Norway"
    assert [(p.prompt, p.kind, p.ground_truth) for p in first.locality] == [
        ("Una Lie is a citizen of", "same_relation", "Norway")
    ]
    assert first.rephrase_prompts == ("Ole Dahl holds a passport of",)
    assert first.model_extra is not None
    assert first.model_extra["attribute_prompts"] == ["Pia Rojas is a citizen of"]
    assert second.locality[0].kind == "same_relation"
    assert second.rephrase_prompts == ("Kim Moe is good at the",)


def test_zsre_takes_the_mark_of_its_locality_questions_off(tmp_path: Path) -> None:
    record = {
        "subject": "Elm Works",
        "src": "What does Elm Works make?",
        "pred": "soap",
        "rephrase": "Which product does Elm Works make?",
        "alt": "",
        "answers": ["soap", "soaps"],
        "loc": "nq question: who sang the first song",
        "loc_ans": "Nobody",
        "portability": {"New Question": "Where is it sold?", "New Answer": "Bergen"},
    }
    (edit,) = import_edits(saved(tmp_path, [record]), "zsre")
    assert (edit.target_new, edit.ground_truth) == ("", "soap")  # an empty target is kept
    assert edit.locality[0].prompt == "who sang the first song"
    assert edit.locality[0].model_extra == {"prefix": "nq question: "}
    assert edit.portability[0].ground_truth == "Bergen"


def test_halluedit_brings_near_misses_and_keeps_the_yes_and_no_questions(tmp_path: Path) -> None:
    record = {
        "topic": "art",
        "subject": "Brill",
        "relation": "movement",
        "object": "Tealism",
        "question": "What is the movement of Brill?",
        "paraphrased_question": "Which movement does Brill belong to?",
        "yes_question": "Is the movement of Brill Tealism?",
        "locality_question": "Who made Brill?",
        "question_2hop": "Who founded the movement of Brill?",
        "answer_2hop": "Ann",
        "question_3hop": "Where was that person born?",
        "answer_3hop": "",
    }
    (edit,) = import_edits(saved(tmp_path, [record]), "halluedit")
    assert (edit.prompt, edit.target_new) == ("What is the movement of Brill?", "Tealism")
    assert edit.rephrase_prompts == ("Which movement does Brill belong to?",)
    assert [(p.prompt, p.kind) for p in edit.locality] == [("Who made Brill?", "same_subject")]
    assert [p.ground_truth for p in edit.portability] == ["Ann"]
    assert (edit.model_extra or {})["yes_question"] == "Is the movement of Brill Tealism?"


@pytest.mark.parametrize(
    ("statement", "prompt", "subject", "target"),
    [
        ("The author of Brill is Ann Bo.", "The author of Brill is", "Brill", "Ann Bo"),
        (
            "The Mayor of Oslo is Ann Bo of Bergen",
            "The Mayor of Oslo is",
            "Mayor of Oslo",
            "Ann Bo of Bergen",
        ),
        ("Ann Bo is a citizen of Peru", "Ann Bo is a citizen of", "Ann Bo", "Peru"),
        ("Nobody knows Ann", "Nobody knows", None, "Ann"),
    ],
)
def test_pokemqa_tells_subject_and_target_apart(
    tmp_path: Path, statement: str, prompt: str, subject: str | None, target: str
) -> None:
    twice = [{"edit": statement, "questions": ["Who?", "Who?"]}]
    twice.append({"edit": statement, "questions": ["Who is it?"]})
    (edit,) = import_edits(saved(tmp_path, twice), "pokemqa")
    assert (edit.prompt, edit.subject, edit.target_new) == (prompt, subject, target)
    assert edit.rephrase_prompts == ("Who?", "Who is it?")


def test_pokemqa_names_a_record_without_questions(tmp_path: Path) -> None:
    with pytest.raises(UnreadableBenchmark, match="record 1: questions: must be a list"):
        import_edits(saved(tmp_path, [{"edit": "A is B", "questions": "Who?"}]), "pokemqa")


def test_mquake_imports_an_edit_once_with_the_questions_of_all_its_cases(tmp_path: Path) -> None:
    a = rewrite("Ole Dahl", "Chile", "Norway", question="Which country is Ole Dahl a citizen of?")
    b = rewrite("Una Lie", "Peru", "Norway", question="Which country is Una Lie a citizen of?")
    cases = [
        {
            "case_id": 1,
            "requested_rewrite": [a],
            "questions": ["What is the capital of Ole Dahl's country?"],
            "new_answer": "Santiago",
            "new_answer_alias": ["Santiago de Chile"],
        },
        {
            "case_id": 2,
            "requested_rewrite": [a, b],
            "questions": ["Which ocean do the two share?"],
            "new_answer": "Pacific",
            "new_answer_alias": [],
        },
    ]
    first, second = import_edits(saved(tmp_path, cases), "mquake")
    assert first.prompt == "Ole Dahl is a citizen of"
    assert first.rephrase_prompts == ("Which country is Ole Dahl a citizen of?",)
    assert [(p.ground_truth, p.model_extra) for p in first.portability] == [
        ("Santiago", {"aliases": ["Santiago de Chile"]})
    ]
    assert [p.model_extra for p in second.portability] == [{"needs": [first.id, second.id]}]


@pytest.mark.parametrize(
    ("source_format", "record", "said"),
    [
        ("counterfact", {"prompt": "p"}, "record 2: target_new: is missing"),
        (
            "counterfact",
            {"requested_rewrite": "x"},
            "record 2: requested_rewrite: must be an object",
        ),
        ("zsre", {"src": "p", "alt": None}, "record 2: alt: must be text"),
        ("mquake", {"requested_rewrite": []}, "record 2: requested_rewrite: must be a list"),
        ("easyedit", {"prompt": "p"}, "record 2: target_new: Field required"),
        (
            "knowedit",
            {
                "prompt": "p",
                "target_new": "t",
                "locality": {"a": {"prompt": ["x"], "ground_truth": []}},
            },
            "record 2: locality.a: must hold prompts",
        ),
    ],
)
def test_a_record_of_another_format_is_named(
    tmp_path: Path, source_format: Format, record: Any, said: str
) -> None:
    good: dict[str, Any] = {
        "counterfact": {"prompt": "p", "target_new": "t"},
        "zsre": {"src": "p", "alt": "t"},
        "mquake": {"requested_rewrite": [rewrite("s", "n", "t")]},
        "easyedit": {"prompt": "p", "target_new": "t"},
        "knowedit": {"prompt": "p", "target_new": "t"},
    }[source_format]
    path = saved(tmp_path, [good, record])
    with pytest.raises(UnreadableBenchmark) as error:
        import_edits(path, source_format)
    assert f"{path}: {said}" in error.value.what


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[{]")
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b"[]" * 99)[:-9])
    (tmp_path / "list.json").write_text("[[1]]")
    for name in ("bad.json", "cut.json.gz", "list.json", "missing.json"):
        with pytest.raises(UnreadableBenchmark, match=name):
            import_edits(tmp_path / name, "easyedit")


@pytest.mark.parametrize(
    ("source_format", "fields", "said"),
    [
        ("easyedit", {"portability": {"New Question": "q"}}, "New Answer: is missing"),
        ("counterfact", {"paraphrase_prompts": "p"}, "paraphrase_prompts: must be a list of texts"),
        ("counterfact", {"neighborhood_prompts": [1]}, "neighborhood_prompts: must be a list"),
        ("knowedit", {"locality": {"a": [{"ground_truth": "x"}]}}, "locality.a: must hold prompts"),
        ("knowedit", {"locality": {"a": {"ground_truth": ["x"]}}}, "locality.a: must hold prompts"),
        ("knowedit", {"locality": {"a": [{"prompt": "x", "kind": []}]}}, "locality.0.kind: Input"),
    ],
)
def test_a_probe_that_lacks_a_field_is_named(
    tmp_path: Path, source_format: Format, fields: Any, said: str
) -> None:
    good = {"prompt": "p", "target_new": "t"}
    if source_format == "counterfact":
        good = {"requested_rewrite": rewrite("s", "n", "t")}
    with pytest.raises(UnreadableBenchmark) as error:
        import_edits(saved(tmp_path, [good, {**good, **fields}]), source_format)
    assert f"record 2: {said}" in error.value.what and error.value.remedy


@pytest.mark.parametrize("source_format", ["easyedit", "counterfact", "zsre"])
def test_easyedits_portability_files(tmp_path: Path, source_format: Format) -> None:
    asked = {"Recalled Relation": "r", "New Question": "Where is it?", "New Answer": "Bergen"}
    record: dict[str, Any] = {
        "easyedit": {"prompt": "p", "target_new": "t"},
        "counterfact": {"requested_rewrite": rewrite("s", "n", "t")},
        "zsre": {"src": "p", "alt": "t"},
    }[source_format]
    (edit,) = import_edits(saved(tmp_path, [{**record, "portability": asked}]), source_format)
    (probe,) = edit.portability
    assert (probe.prompt, probe.ground_truth) == ("Where is it?", "Bergen")
    assert probe.model_extra == {"relation": "r"}


def test_an_edits_own_fields_win_over_their_synonyms(tmp_path: Path) -> None:
    record = {"prompt": "p", "target_new": "t", "text": "x", "labels": "y", "concept": "z"}
    (edit,) = import_edits(saved(tmp_path, [record]), "easyedit")
    assert (edit.prompt, edit.target_new, edit.subject) == ("p", "t", "z")
    assert edit.model_extra == {"text": "x", "labels": "y"}
