"""Names found and masked; scores taken relative to the cohort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serac_core.edits.record import Edit
from serac_core.scope.cohort import COMPETITION, Cohort, CohortScorer, UnreadableCohort
from serac_core.scope.subject import SubjectIndex, mask_subject, subject_key, words_of


@pytest.mark.parametrize(
    ("text", "subject", "said"),
    [
        ("What is the capital of France?", "France", "What is the capital of X?"),
        ("what is FRANCE's capital", "France", "what is X's capital"),
        ("Who painted Le Déjeuner?", "le dejeuner", "Who painted X?"),
        ("Where is Guinea-Bissau?", "Guinea", None),
        ("Where is Guinea-Bissau?", "Guinea-Bissau", "Where is X?"),
        ("Frances is here", "France", None),
        ("Is C++ older?", "C", "Is X++ older?"),
        ("anything", None, None),
        ("anything", "?!", None),
    ],
)
def test_masks_a_subject_only_where_it_is_named(
    text: str, subject: str | None, said: str | None
) -> None:
    assert mask_subject(text, subject) == said


def test_a_longer_name_hides_the_shorter_one_inside_it() -> None:
    index = SubjectIndex([subject_key("Sudan"), subject_key("South Sudan")])
    assert [m.subject for m in index.find("Is South Sudan bigger than Sudan?")] == [
        ("south", "sudan"),
        ("sudan",),
    ]


def test_words_keep_their_place_in_the_text() -> None:
    text = "ﬁne Ünïcode x"
    words = words_of(text)
    assert [word.folded for word in words] == ["fine", "unicode", "x"]
    assert [text[word.start : word.end] for word in words] == ["ﬁne", "Ünïcode", "x"]


def unit(*values: float) -> np.ndarray:
    vector = np.array(values, dtype=np.float32)
    return vector / np.linalg.norm(vector)


def test_a_score_is_closeness_less_the_nearest_other_relation() -> None:
    cohort = Cohort(("a1", "a2", "b1", "c1"), ("a", "a", "b", "c"), ("x", "x", "x", "y"))
    vectors = np.stack([unit(1, 0, 0), unit(1, 1, 0), unit(0, 0, 1), unit(1, 1, 0.2)])
    scorer = CohortScorer(cohort, vectors)
    key = unit(1, 0.05, 0)
    relation = scorer.relations_of(key[None])
    assert relation.tolist() == [[0, 0]]
    query = unit(1, 1, 0.2)
    score_N, p_N, n_N = scorer.score(
        query, scorer.relation_closeness(query[None])[0], key[None], relation
    )
    assert p_N[0] == pytest.approx(query @ unit(1, 1, 0))  # a2, nearer than the key itself
    # c1 is the query itself, but asked of things of another type: it does not compete
    assert n_N[0] == pytest.approx(query @ unit(0, 0, 1))
    assert score_N[0] == pytest.approx(p_N[0] - COMPETITION * n_N[0])


def test_a_key_of_no_known_relation_competes_with_all_of_the_nearest_type() -> None:
    cohort = Cohort(("a", "b"), ("a", "b"), ("x", "y"))
    scorer = CohortScorer(cohort, np.stack([unit(1, 0.5), unit(-1, 0.1)]))
    key = unit(0, 1)
    relation = scorer.relations_of(key[None])
    assert relation.tolist() == [[-1, 0]]
    _, p_N, n_N = scorer.score(key, scorer.relation_closeness(key[None])[0], key[None], relation)
    assert p_N[0] == 1.0
    assert n_N[0] == pytest.approx(key @ unit(1, 0.5))


def test_without_a_cohort_the_score_is_the_cosine() -> None:
    scorer = CohortScorer(Cohort(), np.empty((0, 2), dtype=np.float32))
    query, key = unit(1, 0), unit(1, 1)
    score_N, _, _ = scorer.score(
        query, scorer.relation_closeness(query[None])[0], key[None], scorer.relations_of(key[None])
    )
    assert score_N[0] == pytest.approx(query @ key)


def test_the_cohort_comes_from_edits_and_survives_saving(tmp_path: Path) -> None:
    edit = Edit.model_validate(
        {
            "prompt": "The capital of France is",
            "target_new": "Lyon",
            "subject": "France",
            "rephrase_prompts": ["What is France's capital?", "the capital of France is"],
            "relation": "capital",
            "subject_type": "country",
        }
    )
    unlabelled = Edit(prompt="Who wrote Emma?", target_new="x", subject="Emma")
    cohort = Cohort.from_edits([edit, unlabelled])
    assert set(cohort.relations) == {"capital"}
    assert set(cohort.subject_types) == {"country"}
    assert sorted(cohort.texts) == ["The capital of X is", "What is X's capital?"]
    cohort.save(tmp_path)
    assert Cohort.load(tmp_path) == cohort
    assert Cohort.load(tmp_path / "none") == Cohort()
    (tmp_path / "cohort.json").write_text("[1]")
    with pytest.raises(UnreadableCohort, match=r"cohort\.json"):
        Cohort.load(tmp_path)
