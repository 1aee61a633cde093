"""The world: facts the demo base model knows, and the ways to ask for each.

One JSON file a relation under `data/world/`: phrasings (questions and cloze, some held out)
and facts (subject -> answer); under `phrasings/` many more relations without facts, only asked in
many ways, so that scope is learned over them; under `subjects/` names of the types of subject that
no fact is about. See `data/README.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from serac_core.errors import SeracError

RelationSplit = Literal["train", "calibrate", "held_out"]


class WorldError(SeracError):
    """A file of the world is missing or breaks its format."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One relation of the world.

    `split` says which edits may be made from it: `train` relations serve every fold,
    `calibrate` ones only the calibration, `held_out` ones only the final evaluation.
    `edits_only` phrasings word edits of the training fold, `held_out_edits_only` ones those of the
    test fold; the base model was not pretrained on either, so no probe with a known answer is
    worded so.
    """

    name: str
    subject_type: str
    split: RelationSplit
    phrasings: tuple[str, ...]
    held_out_phrasings: tuple[str, ...]
    edits_only_phrasings: tuple[str, ...] = ()
    held_out_edits_only_phrasings: tuple[str, ...] = ()
    facts: dict[str, str]

    @property
    def training_phrasings(self) -> tuple[str, ...]:
        """All but the last question and the last cloze, which calibration keeps for itself."""
        reserved = set(self.calibration_phrasings)
        return tuple(p for p in self.phrasings if p not in reserved)

    @property
    def calibration_phrasings(self) -> tuple[str, ...]:
        """The last question and the last cloze of the phrasings that are not held out."""
        questions = [p for p in self.phrasings if is_question(p)]
        cloze = [p for p in self.phrasings if not is_question(p)]
        return (*questions[-1:], *cloze[-1:])

    def edits_only_of(self, fold: Literal["train", "val", "calibrate"]) -> tuple[str, ...]:
        """The `edits_only` phrasings that a fold may use: two of three are for `train`."""
        take = {"train": (0, 1, 3, 4), "val": (2,), "calibrate": (5,)}[fold]
        return tuple(p for n, p in enumerate(self.edits_only_phrasings) if n % 6 in take)


@dataclass(frozen=True, kw_only=True)
class AskedRelation:
    """A relation without facts: the ways to ask for it, and answers of the right kind.

    The plainest questions and the plainest cloze stand before the others of their kind.
    """

    name: str
    subject_type: str
    phrasings: tuple[str, ...]
    answers: tuple[str, ...] = ()

    @property
    def plain_phrasings(self) -> tuple[str, ...]:
        """The first two questions and the first cloze: how an edit's prompt is worded."""
        questions = [p for p in self.phrasings if is_question(p)]
        cloze = [p for p in self.phrasings if not is_question(p)]
        return (*questions[:2], *cloze[:1])


@dataclass(frozen=True)
class World:
    """Relations in the order of their names, and everyday messages about none of them.

    Attributes
    ----------
    named_subjects:
        Names by type of subject, of the types that no fact is about.
    """

    relations: tuple[Relation, ...]
    traffic: tuple[str, ...]
    asked_relations: tuple[AskedRelation, ...] = ()
    named_subjects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def facts(self) -> Iterator[tuple[Relation, str, str]]:
        """Every (relation, subject, answer)."""
        for relation in self.relations:
            for subject, answer in relation.facts.items():
                yield relation, subject, answer


def is_question(phrasing: str) -> bool:
    """A phrasing is a question when it ends with a question mark, else a cloze."""
    return phrasing.endswith("?")


def load_world(folder: str | Path) -> World:
    """Read and check `data/world`.

    Raises
    ------
    WorldError
        Naming the file and the rule: JSON, the fields, `{subject}` exactly once in each
        phrasing, phrasings unique over all relations, answers that are not empty.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.json"))
    if not files:
        raise WorldError(f"{folder}: no relation files", remedy="name the folder of the world")
    relations = tuple(_read_relation(file) for file in files)
    asked = tuple(
        relation
        for file in sorted((folder / "phrasings").glob("*.jsonl"))
        for relation in _read_asked_relations(file)
    )
    owner: dict[str, str] = {}
    every: list[Relation | AskedRelation] = [*relations, *asked]
    for relation in every:
        for phrasing in _all_phrasings(relation):
            if phrasing in owner:
                raise WorldError(
                    f"{folder}: phrasing {phrasing!r} stands in "
                    f"{owner[phrasing]} and {relation.name}",
                    remedy="a phrasing must say which relation is meant: reword one of them",
                )
            owner[phrasing] = relation.name
    traffic_file = folder / "traffic.txt"
    try:
        traffic = _read_lines(traffic_file)
    except FileNotFoundError:
        raise WorldError(
            f"{traffic_file}: no such file", remedy="add everyday messages, one a line"
        ) from None
    world = World(
        relations=relations,
        traffic=traffic,
        asked_relations=asked,
        named_subjects={
            file.stem: _read_lines(file) for file in sorted((folder / "subjects").glob("*.txt"))
        },
    )
    _check_subjects(folder, world)
    return world


def _read_lines(file: Path) -> tuple[str, ...]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _check_subjects(folder: Path, world: World) -> None:
    """Every relation that is only asked has subjects to ask it of."""
    known = {relation.subject_type for relation in world.relations} | world.named_subjects.keys()
    for relation in world.asked_relations:
        if relation.subject_type not in known:
            raise WorldError(
                f"{folder}: relation {relation.name!r} is about {relation.subject_type!r}, "
                "of which no subject is named",
                remedy=f"list some in subjects/{relation.subject_type}.txt, one a line",
            )


def _read_relation(file: Path) -> Relation:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        relation = Relation(
            name=data["relation"],
            subject_type=data["subject_type"],
            split=data["split"],
            phrasings=tuple(data["phrasings"]["train"]),
            held_out_phrasings=tuple(data["phrasings"]["held_out"]),
            edits_only_phrasings=tuple(data["phrasings"].get("edits_only", ())),
            held_out_edits_only_phrasings=tuple(data["phrasings"].get("held_out_edits_only", ())),
            facts=dict(data["facts"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise WorldError(
            f"{file}: {type(error).__name__}: {error}",
            remedy="give it the fields that data/README.md describes",
        ) from error
    if relation.split not in get_args(RelationSplit):
        raise WorldError(
            f"{file}: split {relation.split!r}", remedy=f"use one of {get_args(RelationSplit)}"
        )
    _check_phrasings(file, _all_phrasings(relation))
    for subject, answer in relation.facts.items():
        if not (isinstance(answer, str) and answer.strip() and subject.strip()):
            raise WorldError(
                f"{file}: fact {subject!r}: {answer!r}", remedy="give a subject and an answer"
            )
    return relation


def _read_asked_relations(file: Path) -> Iterator[AskedRelation]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            data = json.loads(line)
            relation = AskedRelation(
                name=data["relation"],
                subject_type=data["subject_type"],
                phrasings=tuple(data["phrasings"]),
                answers=tuple(data.get("answers", ())),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise WorldError(
                f"{file}, line {number}: {type(error).__name__}: {error}",
                remedy="give it relation, subject_type and phrasings",
            ) from error
        _check_phrasings(file, relation.phrasings)
        if len(relation.plain_phrasings) < 3 or len(relation.phrasings) < 4:
            raise WorldError(
                f"{file}, line {number}: relation {relation.name!r} has "
                f"{len(relation.phrasings)} phrasings",
                remedy="give it two questions, an unfinished sentence and one more at least",
            )
        yield relation


def _all_phrasings(relation: Relation | AskedRelation) -> tuple[str, ...]:
    if isinstance(relation, AskedRelation):
        return relation.phrasings
    return (
        *relation.phrasings,
        *relation.edits_only_phrasings,
        *relation.held_out_phrasings,
        *relation.held_out_edits_only_phrasings,
    )


def _check_phrasings(file: Path, phrasings: tuple[str, ...]) -> None:
    for phrasing in phrasings:
        if phrasing.count("{subject}") != 1:
            raise WorldError(
                f"{file}: phrasing {phrasing!r}", remedy="write {subject} exactly once in it"
            )
