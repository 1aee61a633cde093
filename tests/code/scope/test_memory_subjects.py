"""The table of subjects finds what `SubjectIndex` finds."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pytest

from serac_core.edits.record import Edit
from serac_core.scope import subject_table
from serac_core.scope.memory import EditMemory
from serac_core.scope.subject import SubjectIndex, subject_key, words_of
from serac_core.scope.subject_table import SubjectFinder, SubjectTable
from serac_core.scope.texts import Texts

_WORDS = (
    "south sudan guinea bissau france cyst cysts cy new york city x of the s ss boss bos ünï "
    "düsseldorf a b"
)
WORDS = _WORDS.split()


def finder(*parts: list[str], joined: bool = False) -> SubjectFinder:
    made = [SubjectTable.of(part) for part in parts]
    tables = [table for table, _ in ([SubjectTable.joined(made)] if joined else made)]

    def about(hash_: int, name: bytes) -> list[int]:
        rows = [(table, table.row_of(hash_, name)) for table in tables]
        return [place for table, row in rows if row is not None for place in table.places_of(row)]

    return SubjectFinder(tables, about)


def compare(rng: Random, rounds: int) -> None:
    for _ in range(rounds):
        names = {
            subject_key(" ".join(rng.choices(WORDS, k=rng.randint(1, 4))))
            for _ in range(rng.randint(0, 12))
        }
        parts: tuple[list[str], list[str]] = ([""], [])
        for name in sorted(names):
            parts[rng.random() < 0.5].append(" ".join(name))
        parts[0].extend(parts[1][:2])  # a subject of both
        index, found = SubjectIndex(names), finder(*parts, joined=rng.random() < 0.5)
        for _ in range(4):
            text = "".join(
                rng.choice([word, word.upper(), word.capitalize()])
                + rng.choice([" ", " ", "-", ", ", "."])
                for word in rng.choices(WORDS, k=rng.randint(0, 14))
            )
            assert found.find(text) == index.find(text), (names, text)


def test_random_texts_name_the_same_subjects() -> None:
    compare(Random(1), 500)


def test_subjects_whose_hashes_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject_table, "hash_of_word", lambda word: len(word) % 3)
    compare(Random(2), 300)


def test_a_long_text_is_searched() -> None:
    text = "weather " * 3000 + "South Sudan"
    assert [found.subject for found in finder(["south sudan"]).find(text)] == [("south", "sudan")]


def test_a_subject_of_removed_edits_hides_no_shorter_one(encoder) -> None:
    names = ["France", "New France"]
    edits = [
        Edit(id=f"e{n}", prompt=f"The capital of {name} is", subject=name, target_new="x")
        for n, name in enumerate(names)
    ]
    memory = EditMemory.build(edits, encoder)
    assert [found.subject for found in memory.subjects.find("New France")] == [("new", "france")]
    (segment,) = memory.segments
    removed = replace(segment, is_removed_E=np.array([False, True]))
    memory = replace(memory, segments=(removed,))
    assert [found.subject for found in memory.subjects.find("New France")] == [("france",)]


def test_words_of_ascii_are_those_of_any_text() -> None:
    characters = [chr(code) for code in range(128)]
    for one, other in product(characters, repeat=2):
        text = f"a{one}{other}b"
        words = [(word.folded, word.start, word.end) for word in words_of(text)]
        # the mark at the end makes it a text of another kind, with the same words before it
        assert [(w.folded, w.start, w.end) for w in words_of(text + " é")][:-1] == words


def test_texts_are_kept_and_taken() -> None:
    given = ["", "a", "ünï", "\ud800", "", "bcd"]
    texts = Texts.of(given)
    assert list(texts) == given
    assert list(texts.taken(np.array([5, 0, 3, 3]))) == ["bcd", "", "\ud800", "\ud800"]
    mask = np.array([True, False, True, False, True, True])
    assert list(texts.kept(mask)) == ["", "ünï", "", "bcd"]
    assert list(Texts.joined([texts, Texts.of(["x"])])) == [*given, "x"]
