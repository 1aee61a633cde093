"""What is asked in an evaluation, and what came of it: one scored item a question."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from serac_core.edits.atomic import write_atomically
from serac_core.edits.record import PROBE_KINDS, Edit, normalize_text
from serac_core.errors import SeracError

Part = Literal["model", "live"]
Group = Literal[
    "edit",
    "rephrase",
    "yes_no",
    "portability",
    "same_subject",
    "same_relation",
    "unrelated",
    "distracting",
    "traffic",
]
IN_SCOPE: tuple[Group, ...] = ("edit", "rephrase")
OUT_OF_SCOPE: tuple[Group, ...] = (*PROBE_KINDS, "traffic")


class UnreadableItems(SeracError):
    """A file of evaluation items or traffic is missing or no JSON Lines."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One query of an evaluation.

    Attributes
    ----------
    target:
        The right answer of an in-scope or portability query: `target_new`, or what follows
        from it.
    ground_truth:
        The right answer of an out-of-scope query, where the probe gives one.
    expected_edit_id:
        The edit an in-scope query must be routed to; None out of scope.
    form:
        Of a yes/no question: `own`, `paraphrased` or `negated`.
    """

    part: Part
    group: Group
    query: str
    about: str | None = None
    target: str | None = None
    ground_truth: str | None = None
    expected_edit_id: str | None = None
    relation: str | None = None
    held_out_relation: bool = False
    several_words: bool = False
    target_in_training: bool = True
    form: str | None = None

    @property
    def key(self) -> str:
        """The same question in two evaluations has the same key (16 hex digits)."""
        content = "\x1f".join((self.part, self.group, self.query, self.target or ""))
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def out_of_scope(self) -> bool:
        return self.group in OUT_OF_SCOPE


@dataclass(frozen=True, kw_only=True)
class Item:
    """A question with its answer and score. One line of `items.jsonl`.

    Attributes
    ----------
    correct:
        In scope and portability: the answer is the target. Out of scope: it is the base's.
    score:
        Of the nearest edit in memory; None when the memory is empty.
    token_accuracy:
        Teacher-forced share of right tokens of the target, through the router.
    pre_accuracy, post_accuracy, pre_exact, post_exact:
        The same on the ground truth, by the base and by the edited model (out of scope).
    argmax_changed:
        Out of scope: any token of the ground truth is predicted otherwise than by the base.
    """

    question: Question
    answer: str
    base_answer: str | None
    correct: bool
    in_scope: bool
    edit_id: str | None
    nearest_edit_id: str | None
    score: float | None
    token_accuracy: float | None = None
    pre_accuracy: float | None = None
    post_accuracy: float | None = None
    pre_exact: bool | None = None
    post_exact: bool | None = None
    argmax_changed: bool | None = None

    @property
    def expected(self) -> str:
        """What the answer is compared with."""
        return (
            (self.base_answer or "") if self.question.out_of_scope else self.question.target or ""
        )

    def row(self) -> dict[str, Any]:
        """The item as a JSON object, its key first."""
        data = asdict(self)
        question = data.pop("question")
        rounded = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in data.items()
        }
        return {"key": self.question.key, **question, "expected": self.expected, **rounded}


def questions_of(edits: Sequence[Edit], part: Part, traffic: Sequence[str] = ()) -> list[Question]:
    """All that is asked about a set of edits: prompts, rephrasings, probes, then traffic.

    A question put twice (probes are shared between edits) stands once, so that every item
    is a sample of its own.
    """
    questions: list[Question] = []
    for edit in edits:
        extra = edit.model_extra or {}
        facts = {
            "about": edit.subject,
            "relation": extra.get("relation"),
            "held_out_relation": bool(extra.get("held_out_relation", False)),
            "several_words": len(edit.target_new.split()) > 1,
            "target_in_training": bool(extra.get("target_in_training", True)),
        }
        routed: dict[str, Any] = {
            "target": edit.target_new,
            "expected_edit_id": edit.id,
            **facts,
        }
        questions.append(Question(part=part, group="edit", query=edit.prompt, **routed))
        questions += [
            Question(part=part, group="rephrase", query=prompt, **routed)
            for prompt in edit.rephrase_prompts
        ]
        questions += [
            Question(
                part=part,
                group=probe.kind,
                query=probe.prompt,
                ground_truth=probe.ground_truth,
                about=edit.subject,
                relation=extra.get("relation"),
            )
            for probe in edit.locality
        ]
        questions += [
            Question(
                part=part,
                group="portability",
                query=implied.prompt,
                target=implied.ground_truth,
                about=edit.subject,
                relation=extra.get("relation"),
            )
            for implied in edit.portability
        ]
    questions += [Question(part=part, group="traffic", query=query) for query in traffic]
    unique: dict[str, Question] = {}
    for question in questions:
        unique.setdefault(question.key, question)
    return list(unique.values())


def same_answer(answer: str, expected: str) -> bool:
    """Exact match: the same characters, white space and Unicode composition aside."""
    return _composed(answer) == _composed(expected)


def _composed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def read_traffic(path: str | Path, fold: str = "test") -> list[str]:
    """Queries of a traffic file (`{"query", "fold"}` a line) of one fold, without repetitions.

    Raises
    ------
    UnreadableItems
    """
    unique: dict[str, str] = {}
    for row in read_items(path):
        if "query" not in row:
            raise UnreadableItems(
                f"{path}: a line has no `query`", remedy="make the training set anew"
            )
        if row.get("fold", fold) == fold:
            unique.setdefault(normalize_text(row["query"]), row["query"])
    return list(unique.values())


def read_items(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file such as `items.jsonl`.

    Raises
    ------
    UnreadableItems
        The file is missing or a line is no JSON object; names file and line.
    """
    path = Path(path)
    rows: list[dict[str, Any]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableItems(f"{path}: {error}", remedy="run the stage that writes it") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            row = error
        if not isinstance(row, dict):
            raise UnreadableItems(
                f"{path}: line {number} is no JSON object", remedy="run the stage that writes it"
            )
        rows.append(row)
    return rows


def rows_at(path: str | Path, places: Sequence[int]) -> list[dict[str, Any]]:
    """The rows on some lines of `items.jsonl`, counted from 0, ascending."""
    wanted, found = iter(places), []
    place = next(wanted, None)
    with Path(path).open("rb") as handle:
        for number, line in enumerate(handle):
            if place is None:
                break
            if number == place:
                found.append(json.loads(line))
                place = next(wanted, None)
    return found


def write_items(path: str | Path, items: Iterable[Item]) -> None:
    """Write items as JSON Lines, whole or not at all; the same items give the same bytes."""
    write_atomically(
        path, ((json.dumps(item.row(), ensure_ascii=True) + "\n").encode() for item in items)
    )
