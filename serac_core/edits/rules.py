"""The rules that an edit set is held to: name, severity, what it says, what to do.

`error` keeps an edit set from being served; `warning` asks a person to look. What only a
trained classifier can see (a near miss that it takes for the edit) is measured after training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `says` completes "an edit breaks it when ..."."""

    name: str
    severity: Severity
    says: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: which record, which field, and the value found there.

    `id` is the edit's id (made from its content when the record has none), or `line N` for a
    record too broken to have one; `line` counts from 1.
    """

    line: int
    id: str
    rule: str
    field: str
    value: str
    detail: str


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "wrong_type",
            "error",
            "a field has another type or value than the record asks for",
            "see the edit record in the documentation; other formats: `serac edits import`",
        ),
        Rule("missing_field", "error", "a required field is absent", "add the field"),
        Rule(
            "empty_field",
            "error",
            "a text is empty or holds nothing that shows",
            "fill it in, or leave out an optional field",
        ),
        Rule(
            "control_character",
            "error",
            "a text holds a control character, a line break or half a character",
            "remove the character",
        ),
        Rule(
            "bad_date",
            "error",
            "a date isn't ISO 8601, isn't in the calendar, or `created_at` is in the future",
            "write it as 2024-03-07 or 2024-03-07T12:00:00Z",
        ),
        Rule(
            "duplicate_id",
            "error",
            "two records have one id",
            "remove one, or give it an id of its own",
        ),
        Rule(
            "duplicate_prompt",
            "error",
            "two live edits have one prompt and one target",
            "keep one of them",
        ),
        Rule(
            "conflicting_targets",
            "error",
            "two live edits have one prompt and different targets",
            "retract one, or let the newer supersede the older",
        ),
        Rule(
            "target_is_ground_truth",
            "error",
            "the new target is the old answer",
            "an edit changes the answer: correct one of the two",
        ),
        Rule(
            "target_in_prompt",
            "error",
            "the new target already stands in the prompt",
            "ask without giving the answer away",
        ),
        Rule(
            "target_offered_in_prompt",
            "warning",
            "the prompt offers the new target and the old answer to choose from",
            "look whether the choice is meant",
        ),
        Rule(
            "ground_truth_in_prompt",
            "warning",
            "the old answer stands in the prompt",
            "look whether the prompt gives an answer away",
        ),
        Rule(
            "rephrasing_is_prompt",
            "error",
            "a rephrasing says what the prompt says, word for word",
            "remove it or phrase it otherwise",
        ),
        Rule(
            "repeated_rephrasing",
            "warning",
            "a rephrasing stands twice in one edit",
            "remove one",
        ),
        Rule(
            "rephrasing_without_subject",
            "warning",
            "the subject is given and a rephrasing doesn't name it",
            "look whether the rephrasing can be understood alone",
        ),
        Rule(
            "rephrasing_with_unrelated_lead",
            "warning",
            "a rephrasing begins with a statement that isn't about the subject",
            "take the statement off",
        ),
        Rule(
            "rephrasing_of_another_edit",
            "error",
            "a rephrasing is the prompt or a rephrasing of another live edit with another target",
            "one query can't have two answers: remove one of them",
        ),
        Rule(
            "probe_in_own_scope",
            "error",
            "a locality probe is the edit's own prompt or rephrasing",
            "a locality probe asks something else: replace it",
        ),
        Rule(
            "probe_of_another_edit",
            "error",
            "a probe is the prompt or a rephrasing of another live edit (and, for a portability "
            "probe, has another answer)",
            "the other edit changes this answer: replace the probe",
        ),
        Rule(
            "portability_of_another_edit",
            "warning",
            "a portability probe is the prompt or a rephrasing of another live edit with the "
            "same answer",
            "it tests that edit, not what follows from this one",
        ),
        Rule(
            "supersedes_unknown",
            "error",
            "`supersedes` names an id that isn't in the set",
            "correct the id",
        ),
        Rule(
            "supersedes_cycle",
            "error",
            "edits supersede one another in a circle",
            "only the newer one supersedes",
        ),
        Rule(
            "retracts_unknown",
            "error",
            "a line retracts an id that isn't in the set",
            "correct the id; `serac edits list` prints them",
        ),
        Rule(
            "too_long",
            "error",
            "a text has more tokens than a configured model reads",
            "shorten it, or configure a model that reads more",
        ),
    )
}
