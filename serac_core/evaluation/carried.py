"""What an evaluation of live edits carries over from the one before, so that it asks only what a
change can touch.

A query's decision depends on the edits about the subjects that it names, and on those that are
compared by their whole text. So where edits are added or taken away, these are asked: what the new
edits ask, and every other question that names a subject of one of them. Answer and score of all
others are what they were, as long as encoder, calibration and both models are the same: the
context, by which an evaluation is kept. Where an edit that is compared by its whole text comes or
goes, every kept question is routed again, and those are asked whose decision changed. A probe that
several edits share stays noted as of the one that first had it.

Shapes: I items, A questions with the edits that ask them, W words of questions.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from serac_core.edits.inferred_subject import subject_or_inferred
from serac_core.edits.kept import keeping, reading_kept
from serac_core.edits.record import Edit
from serac_core.evaluation.item_columns import (
    COLUMNS_FILE,
    ITEMS_FILE,
    ItemColumns,
    keys_of,
)
from serac_core.evaluation.items import Question, UnreadableItems, questions_of
from serac_core.scope.subject import SubjectIndex, said_of, singular_of, subject_key, words_of
from serac_core.scope.texts import hash_of_text

CARRIED_FILE = "carried.json"
EDITS_FILE = "edits.jsonl"

_FOLDER = "live-evaluation"
_INDEX_FILE = "index.npz"
_FORMAT = "1"
_KEPT = 2
_QUESTION = tuple(field.name for field in fields(Question))

Keys = NDArray[np.uint64]


@dataclass(frozen=True)
class AskedIndex:
    """Which edits ask a question, and which words it has. Grows with each evaluation; what is gone
    from the items is left in it.

    Attributes
    ----------
    asked_A, by_A:
        Keys of questions, and hashes of the ids of the edits that ask them.
    word_W, of_W:
        Hashes of words, and keys of the questions that have them.
    """

    asked_A: Keys
    by_A: Keys
    word_W: Keys
    of_W: Keys

    @classmethod
    def of(cls, edits: Iterable[Edit]) -> AskedIndex:
        asked, by, words, of = [], [], [], []
        for edit in edits:
            name = hash_of_text(edit.id)
            for question in questions_of([edit], "live"):
                key = int(question.key, 16)
                asked.append(key)
                by.append(name)
                for word in words_in(question.query):
                    words.append(hash_of_text(word))
                    of.append(key)
        return cls(*(np.array(column, dtype=np.uint64) for column in (asked, by, words, of)))

    def __add__(self, other: AskedIndex) -> AskedIndex:
        return AskedIndex(
            *(
                np.concatenate([getattr(self, column.name), getattr(other, column.name)])
                for column in fields(self)
            )
        )

    def asked_by(self, ids: Collection[str], *, only: bool = False) -> Keys:
        """The questions that these edits ask; with `only`, those that no other edit asks."""
        names = np.array([hash_of_text(name) for name in ids], dtype=np.uint64)
        is_theirs_A = np.isin(self.by_A, names)
        theirs = self.asked_A[is_theirs_A]
        return np.setdiff1d(theirs, self.asked_A[~is_theirs_A]) if only else np.unique(theirs)

    def without(self, ids: Collection[str]) -> AskedIndex:
        """The same after these edits are gone."""
        names = np.array([hash_of_text(name) for name in ids], dtype=np.uint64)
        kept_A = ~np.isin(self.by_A, names)
        return AskedIndex(self.asked_A[kept_A], self.by_A[kept_A], self.word_W, self.of_W)

    def with_words_of(self, subjects: Iterable[Sequence[str]]) -> Keys:
        """The questions that have all words of one of the subjects, in whatever order."""
        hashes = {word: hash_of_text(word) for subject in subjects for word in subject}
        sorted_hashes = np.sort(np.array(list(hashes.values()), dtype=np.uint64))
        if not len(sorted_hashes):
            return np.empty(0, dtype=np.uint64)
        place_W = np.searchsorted(sorted_hashes, self.word_W)
        np.minimum(place_W, len(sorted_hashes) - 1, out=place_W)
        hit = np.flatnonzero(sorted_hashes[place_W] == self.word_W)
        if not len(hit):
            return np.empty(0, dtype=np.uint64)
        order = hit[np.argsort(self.word_W[hit], kind="stable")]
        words, starts = np.unique(self.word_W[order], return_index=True)
        ends = np.append(starts[1:], len(order))
        of = {
            int(word): self.of_W[order[start:end]]
            for word, start, end in zip(words, starts, ends, strict=True)
        }
        found = [np.empty(0, dtype=np.uint64)]
        for subject in dict.fromkeys(tuple(subject) for subject in subjects):
            lists = [of.get(hashes[word]) for word in subject]
            if lists and all(one is not None for one in lists):
                keys, *others = sorted((one for one in lists if one is not None), key=len)
                for other in others:
                    keys = keys[np.isin(keys, other)]
                found.append(keys)
        return np.unique(np.concatenate(found))


@dataclass(frozen=True)
class Carried:
    """A kept evaluation: its context, the lines of the live edits and of their items, the items as
    columns, and its index."""

    context: str
    edits: Sequence[bytes]
    lines: Sequence[bytes]
    columns: ItemColumns
    index: AskedIndex

    def places_of(self, keys: Keys) -> NDArray[np.int64]:
        """Where the items with these keys stand, ascending."""
        return np.flatnonzero(np.isin(self.columns.key_I, keys))

    def questions_at(self, places: NDArray[np.int64]) -> list[Question]:
        """The questions of items."""
        rows = (json.loads(self.lines[place]) for place in places.tolist())
        return [Question(**{name: row[name] for name in _QUESTION if name in row}) for row in rows]

    def queries(self) -> list[str]:
        """The query of every item."""
        return [json.loads(line)["query"] for line in self.lines]


@dataclass(frozen=True)
class Plan:
    """What to ask, and which kept items stay.

    Attributes
    ----------
    dropped, again:
        Places of kept items: of questions that nobody asks any more; of those to ask again.
    """

    questions: tuple[Question, ...]
    dropped: NDArray[np.int64]
    again: NDArray[np.int64]


def words_in(text: str) -> set[str]:
    """The words of a text as subjects have them, singulars of its plurals too."""
    found = words_of(text)
    singulars = (singular_of(word, text) for word in found)
    return {word.folded for word in found} | {one for one in singulars if one}


def compared_by(edit: Edit) -> tuple[str, ...]:
    """The words of the subject by which an edit comes into question; () for its whole text."""
    subject = subject_or_inferred(edit)
    return () if said_of(edit.prompt, subject) is None else subject_key(subject)


def plan_asking(carried: Carried, added: Sequence[Edit], removed: Sequence[Edit]) -> Plan:
    """Which questions a change of the live edits can touch, whole texts aside."""
    gone = [edit.id for edit in removed]
    dropped = carried.places_of(carried.index.asked_by(gone, only=True))
    subjects = [key for edit in (*added, *removed) if (key := compared_by(edit))]
    near = carried.places_of(carried.index.with_words_of(subjects))
    near = np.setdiff1d(near, dropped)
    index = SubjectIndex(list(dict.fromkeys(subjects)))
    questions = carried.questions_at(near)
    naming = [bool(index.find(question.query)) for question in questions]
    again = near[np.array(naming, dtype=np.bool_)]
    kept = np.delete(carried.columns.key_I, dropped)
    new = questions_of(added, "live")
    is_new = ~np.isin(keys_of([question.key for question in new]), kept)
    asked = (
        *(question for question, names in zip(questions, naming, strict=True) if names),
        *(question for question, new_one in zip(new, is_new.tolist(), strict=True) if new_one),
    )
    return Plan(asked, dropped, again)


def evaluation_context(
    encoder_digest: str, calibration: bytes, models: Sequence[str | None], *settings: object
) -> str | None:
    """What an evaluation of live edits is kept by; None where a model can't be told."""
    if any(model is None for model in models):
        return None
    parts = (
        _FORMAT,
        version("serac-ops"),
        encoder_digest,
        hashlib.sha256(calibration).hexdigest(),
        *map(str, models),
        *map(str, settings),
    )
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def read_carried(cache_dir: Path, context: str | None) -> Carried | None:
    """The kept evaluation of a context; None where there is none, or it is damaged."""
    if context is None:
        return None
    unusable = suppress(OSError, ValueError, KeyError, BadZipFile, UnreadableItems)
    with reading_kept(cache_dir / _FOLDER / context) as folder, unusable:
        edits = (folder / EDITS_FILE).read_bytes().splitlines(keepends=True)
        lines = (folder / ITEMS_FILE).read_bytes().splitlines(keepends=True)
        with np.load(folder / _INDEX_FILE, allow_pickle=False) as arrays:
            index = AskedIndex(*(arrays[column.name] for column in fields(AskedIndex)))
        columns = ItemColumns.read(folder)
        if len(lines) == len(columns):
            return Carried(context, edits, lines, columns, index)
    return None


def keep_carried(
    cache_dir: Path, context: str, live_edits: Path, evaluation: Path, index: AskedIndex
) -> None:
    """Keep an evaluation for the next one.

    Raises
    ------
    UnwritableOutput
    """
    with keeping(cache_dir / _FOLDER / context, _KEPT) as folder:
        shutil.copyfile(live_edits, folder / EDITS_FILE)
        for name in (ITEMS_FILE, COLUMNS_FILE):
            shutil.copyfile(evaluation / name, folder / name)
        arrays: dict[str, Any] = {
            column.name: getattr(index, column.name) for column in fields(index)
        }
        np.savez(folder / _INDEX_FILE, **arrays)


def write_asked(folder: Path, context: str | None, asked: Iterable[str] | None) -> None:
    """Note in an evaluation's folder what it was made with, and which questions it asked; None:
    all."""
    content = {"context": context, "asked": None if asked is None else sorted(asked)}
    (folder / CARRIED_FILE).write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


def read_asked(evaluation: Path) -> list[str] | None:
    """The keys of the questions that an evaluation asked; None where it asked all."""
    return _read_note(evaluation)[1]


def _read_note(evaluation: Path) -> tuple[str | None, list[str] | None]:
    try:
        found = json.loads((evaluation / CARRIED_FILE).read_text(encoding="utf-8"))
        return found["context"], found["asked"]
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableItems(
            f"{evaluation / CARRIED_FILE}: {error}", remedy="run the stage that writes it"
        ) from error


def keep_released(release: Path, cache_dir: Path) -> bool:
    """Keep the evaluation of a release's live edits, where none of its context is kept: on another
    machine, or after the cache was deleted. Whether there was something to do.

    Raises
    ------
    UnreadableItems, UnreadableEdits
    """
    from serac_core.edits.jsonl import read_edits

    evaluation = release / "report" / "live"
    context, _ = _read_note(evaluation)
    if context is None or read_carried(cache_dir, context) is not None:
        return False
    index = AskedIndex.of(read_edits(release / "edits.jsonl"))
    keep_carried(cache_dir, context, release / "edits.jsonl", evaluation, index)
    return True


def merged_lines(carried: Carried, plan: Plan, asked: Sequence[bytes]) -> Iterator[bytes]:
    """The lines of all items: the kept ones in their order, those asked again in their places, and
    the new ones at the end."""
    again = dict(zip(plan.again.tolist(), asked, strict=False))
    dropped = set(plan.dropped.tolist())
    for place, line in enumerate(carried.lines):
        if place not in dropped:
            yield again.get(place, line)
    yield from asked[len(again) :]


def merged_columns(carried: Carried, plan: Plan, asked: ItemColumns) -> ItemColumns:
    """The same as columns."""
    count, kept = len(plan.again), len(carried.columns)
    source = np.arange(kept)
    source[plan.again] = kept + np.arange(count)
    order = np.concatenate([np.delete(source, plan.dropped), kept + np.arange(count, len(asked))])
    return ItemColumns.joined([carried.columns, asked]).taken(order)
