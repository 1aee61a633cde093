"""Names found and masked; scores taken relative to the cohort."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serac_core.edits.record import Edit
from serac_core.scope.cohort import TEMPERATURES, Cohort, CohortScorer, UnreadableCohort
from serac_core.scope.longer_names import names_longer
from serac_core.scope.scale import COMPETITION, Scale, fit_scale, unfitted_score
from serac_core.scope.subject import (
    SubjectIndex,
    said_of,
    sentences_of,
    subject_key,
    words_of,
)


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
        ("Who treats cysts?", "cyst", "Who treats X?"),
        ("Who treats Cysts?", "cyst", None),  # a name of its own
        ("Who is bored of gas?", "ga", None),
        ("I like tea. Who owns Brill?", "Brill", "Who owns X?"),
        ("I love Brill! Who owns Brill, and is Brill old?", "Brill", "Who owns X, and is X old?"),
        (
            "Brill is in Oslo. The mayor of Bergen is",
            "Brill",
            "X is in Oslo. The mayor of Bergen is",
        ),
        ("He studied law. Brill worships", "Brill", "X worships"),
        ("He studied law. Brill, by", "Brill", "X, by"),
        ("Tell me who owns it. Brill, please.", "Brill", "Tell me who owns it. X, please."),
        ("Tell me who owns it. Brill?", "Brill", "Tell me who owns it. X?"),
        ("Who runs Brill Inc. in Mt. Vernon?", "Mt. Vernon", "Who runs Brill Inc. in X?"),
        ("Was it J. R. Brill who sang?", "Brill", "Was it J. R. X who sang?"),
        ("Foreign Affairs, Vol. Brill's owner is", "Brill", "X's owner is"),
        ("Is Moss Inc. Brill's first owner?", "Brill", "Is Moss Inc. X's first owner?"),
        ("Who is married to Mr. Brill?", "Brill", "Who is married to Mr. X?"),
        ("The twin city of Washington, D.C. is", "Washington, D.C.", "The twin city of X is"),
        ("I was in Brill. then I left", "Brill", "I was in X then I left"),
        ("Who ran Life (magazine) then?", "Life (magazine)", "Who ran X then?"),
        ("Who ran it (for Life)?", "Life", "Who ran it (for X)?"),
        ("Some words\nWho owns Brill?", "Brill", "Who owns X?"),
        ("anything", None, None),
        ("anything", "?!", None),
    ],
)
def test_masks_a_subject_only_where_it_is_named(
    text: str, subject: str | None, said: str | None
) -> None:
    assert said_of(text, subject) == said


@pytest.mark.parametrize(
    ("query", "longer"),
    [
        ("The University of X is in", True),
        ("The twin city of Greater X is", True),
        ("X M3 was developed by", True),
        ("X: Part 2 premiered on", True),
        ("X 2 was developed by", True),
        ("Does the Central X Region speak it?", True),
        ("Is X in Europe?", False),
        ("Is the capital of X Paris?", False),
        ("Where was President X born?", False),
        ("Dr. X was born in", False),
        ("X. The city", False),
        ("In France, X is", False),
        ("Capital of X?", False),
        ("Category:Rivers of Peru X flows through", False),
        ("X", False),
    ],
)
def test_a_longer_name_is_told_by_its_neighbours(query: str, longer: bool) -> None:
    assert names_longer("What is the capital of X?", query) is longer


def test_sentences_end_neither_at_initials_nor_at_abbreviations() -> None:
    text = 'Dr. J. Bo left. "Why?" he asked. U.S. law... No!  Yes\n\nIn 1.5 years'
    assert [part.strip() for part in sentences_of(text)] == [
        "Dr. J. Bo left.",
        '"Why?"',
        "he asked.",
        "U.S. law...",
        "No!",
        "Yes",
        "In 1.5 years",
    ]
    assert sentences_of(" ") == []


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


def compare(scorer: CohortScorer, query: np.ndarray, key: np.ndarray) -> list[float]:
    closeness_R = scorer.relation_closeness(query[None])[0]
    found_NF = scorer.compare(query, closeness_R, key[None], scorer.known(key[None]))
    return [float(value) for value in found_NF[0]]


def test_a_query_is_compared_with_the_edit_its_relation_and_the_nearest_other() -> None:
    cohort = Cohort(("a1", "a2", "b1", "c1"), ("a", "a", "b", "c"), ("x", "x", "x", "x"))
    vectors = np.stack([unit(1, 0, 0), unit(1, 1, 0), unit(0, 0, 1), unit(1, 1, 0.5)])
    scorer = CohortScorer(cohort, vectors)
    key, query = unit(1, 0.05, 0), unit(1, 1, 0.2)

    def to_a(vector: np.ndarray) -> float:
        return float((vector @ unit(1, 0, 0) + vector @ unit(1, 1, 0)) / 2)

    expected = [query @ key, to_a(query), query @ unit(1, 1, 0.5), to_a(key)]
    assert compare(scorer, query, key)[:4] == pytest.approx(expected)
    # a query nearest to the edit's own relation competes with the second nearest
    near = unit(1, 0.9, -0.1)
    assert compare(scorer, near, key)[1:3] == pytest.approx([to_a(near), near @ unit(1, 1, 0.5)])


def test_the_overlap_is_that_of_what_query_and_edit_are_near_to() -> None:
    cohort = Cohort(tuple("abc"), ("a", "b", "c"), ("x", "x", "x"))
    vectors = np.eye(3, dtype=np.float32)
    scorer = CohortScorer(cohort, vectors)
    query, key = unit(1, 0.5, 0), unit(0.5, 1, 0)

    def shares(closeness: np.ndarray, temperature: float) -> np.ndarray:
        weights = np.exp(closeness / temperature)
        return weights / weights.sum()

    expected = [np.sqrt(shares(query, t) * shares(key, t)).sum() for t in TEMPERATURES]
    assert compare(scorer, query, key)[4:] == pytest.approx(expected, rel=1e-4)
    assert compare(scorer, key, key)[4:] == pytest.approx([1, 1])


def test_relations_far_off_are_compared_by_their_mean_one_text_or_many() -> None:
    rng = np.random.default_rng(1)
    relation_C = np.repeat(np.arange(300), 4)
    center_RD = rng.normal(size=(300, 16))
    vectors = center_RD[relation_C] + 0.3 * rng.normal(size=(1200, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = tuple(f"r{number:03}" for number in relation_C)
    scorer = CohortScorer(Cohort(names, names, names), vectors)
    asked = (rng.normal(size=(7, 16))).astype(np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    together = scorer.relation_closeness(asked)
    alone = np.concatenate([scorer.relation_closeness(query[None]) for query in asked])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    exact = np.sort((asked @ vectors.T).reshape(7, 300, 4), axis=2)[..., 2:].mean(axis=2)
    mean = vectors.reshape(300, 4, 16).mean(axis=1)
    by_mean = asked @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T
    near = np.argsort(-by_mean, axis=1)
    for row in range(7):
        np.testing.assert_allclose(
            together[row, near[row, :128]], exact[row, near[row, :128]], atol=1e-6
        )
        np.testing.assert_allclose(
            together[row, near[row, 128:]], by_mean[row, near[row, 128:]], atol=1e-6
        )


def test_without_a_cohort_there_is_only_the_edit_itself() -> None:
    scorer = CohortScorer(Cohort(), np.empty((0, 2), dtype=np.float32))
    query, key = unit(1, 0), unit(1, 1)
    assert compare(scorer, query, key) == pytest.approx([query @ key, -1, 0, -1, 0, 0])
    found = np.array([compare(scorer, query, key)], dtype=np.float32)
    assert unfitted_score(found)[0] == pytest.approx(query @ key)


def test_without_weights_the_score_is_closeness_less_the_nearest_other_relation() -> None:
    known, unknown = [0.5, 0.9, 0.4, 0.85], [0.5, 0.9, 0.4, 0.75]
    score_N = unfitted_score(np.array([known, unknown], dtype=np.float32))
    assert score_N.tolist() == pytest.approx([0.9 - COMPETITION * 0.4, 0.5 - COMPETITION * 0.4])


def test_a_fitted_scale_tells_pairs_apart_and_knows_the_same_text() -> None:
    rng = np.random.default_rng(0)
    applies_N = np.arange(400) % 2 == 0
    edit_N = np.where(applies_N, 0.6, 0.4) + rng.normal(0, 0.03, 400)
    other_N = np.where(applies_N, 0.4, 0.6) + rng.normal(0, 0.03, 400)
    still_N = np.full(400, 0.7)
    closeness_NF = np.stack([edit_N, edit_N, other_N, still_N, still_N, still_N], axis=1)
    scale = fit_scale(closeness_NF.astype(np.float32), applies_N)
    assert scale is not None
    score_N = scale.score(closeness_NF.astype(np.float32))
    assert ((score_N > 0.5) == applies_N).all()
    assert ((score_N >= 0) & (score_N <= 1)).all()
    same = np.array([[1, 0.1, 0.99, 0.1, 0, 0]], dtype=np.float32)
    assert scale.score(same)[0] == 1.0
    assert fit_scale(closeness_NF[:12].astype(np.float32), applies_N[:12]) is None
    with pytest.raises(ValueError, match="a scale has 28"):
        Scale((1.0, 2.0))


def test_a_thinned_cohort_keeps_every_relation() -> None:
    cohort = Cohort(tuple("abcdefg"), ("r",) * 5 + ("s",) * 2, ("x",) * 7)
    thin = cohort.thinned(2)
    assert thin == Cohort(("a", "d", "f", "g"), ("r", "r", "s", "s"), ("x",) * 4)


def test_what_is_asked_the_same_of_two_types_of_subject_does_not_compete() -> None:
    cohort = Cohort(tuple("abcd"), ("r", "s", "t", "u"), ("x", "y", "x", "y"))
    vectors = np.stack([unit(1, 0, 0), unit(1, 0.1, 0), unit(1, -0.1, 0), unit(0, 0, 1)])
    cohort = cohort.with_synonyms(vectors)
    assert cohort.synonyms == (("r", "s"), ("s", "t"))  # r and t are of one type: two questions
    query = unit(1, 0.1, 0)
    found = compare(CohortScorer(cohort, vectors), query, unit(1, 0, 0))
    assert found[1] == pytest.approx(1)  # s
    assert found[2] == pytest.approx(query @ unit(1, -0.1, 0))  # t


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
    cohort = replace(cohort, synonyms=(("capital", "state_capital"),))
    assert sorted(cohort.texts) == ["The capital of X is", "What is X's capital?"]
    cohort.save(tmp_path)
    assert Cohort.load(tmp_path) == cohort
    assert Cohort.load(tmp_path / "none") == Cohort()
    (tmp_path / "cohort.json").write_text("[1]")
    with pytest.raises(UnreadableCohort, match=r"cohort\.json"):
        Cohort.load(tmp_path)
