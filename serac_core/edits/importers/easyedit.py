"""EasyEdit's request format and KnowEdit (Zhang et al. 2024), which nests its probes.

A record: `prompt` (`text`), `target_new` (`labels`), `subject` (`concept`), `ground_truth`,
`rephrase_prompt` or `rephrase` (text or list), `locality_prompt` with
`locality_ground_truth`, and `locality` and `portability` by name, each either a list of
`{prompt, ground_truth}` or an object `{prompt, ground_truth}` of texts or lists; `portability`
also as EasyEdit's own files have it, `{New Question, New Answer}`. Answers may be lists of
alternatives: the first counts, the others are kept as `aliases`. `locality_order` and
`portability_order` are written by our export: the group of each probe, where probes of one group
don't stand together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serac_core.edits.importers.source_file import (
    flat_answers,
    make_edit,
    text_field,
    wrong_format,
)
from serac_core.edits.record import PROBE_KINDS, Edit, ProbeKind

# EasyEdit's names of locality probes and the kind each one is.
KIND_OF_NAME: dict[str, ProbeKind] = {
    "Relation_Specificity": "same_subject",
    "Forgetfulness": "same_subject",
    "neighborhood": "same_relation",
    "distracting": "distracting",
    **{kind: kind for kind in PROBE_KINDS},
}
NAME_OF_KIND: dict[ProbeKind, str] = {
    "same_subject": "Relation_Specificity",
    "same_relation": "neighborhood",
    "distracting": "distracting",
    "unrelated": "unrelated",
}
PORTABILITY_NAME = "portability"  # the group of probes that have no name of their own
ORDER = "{}_order"  # of locality or portability: the group of each probe

_SYNONYMS = {"text": "prompt", "labels": "target_new", "concept": "subject"}
_CONSUMED = {
    "ground_truth",
    "rephrase_prompt",
    "rephrase",
    "rephrase_prompts",
    "locality",
    "portability",
    "locality_prompt",
    "locality_ground_truth",
    ORDER.format("locality"),
    ORDER.format("portability"),
}


def _answer_fields(value: Any) -> dict[str, Any]:
    answers = flat_answers(value)
    fields: dict[str, Any] = {"ground_truth": answers[0]} if answers else {}
    return {**fields, "aliases": answers[1:]} if answers[1:] else fields


def _grouped(group: Any) -> Iterator[dict[str, Any]]:
    """The probes of one named group, whichever way it is written."""
    if isinstance(group, list):
        for probe in group:
            prompts = flat_answers(probe.get("prompt")) if isinstance(probe, dict) else []
            if not prompts:
                raise TypeError
            for prompt in prompts:
                rest = {k: v for k, v in probe.items() if k not in ("prompt", "ground_truth")}
                yield {**rest, "prompt": prompt, **_answer_fields(probe.get("ground_truth"))}
    elif isinstance(group, dict):
        prompts = flat_answers(group.get("prompt"))
        answers = group.get("ground_truth")
        each = [answers] * len(prompts)
        if isinstance(answers, list) and isinstance(group.get("prompt"), list):
            each = answers
        if len(each) != len(prompts) or (group and "prompt" not in group):
            raise TypeError
        for prompt, answer in zip(prompts, each, strict=True):
            yield {"prompt": prompt, **_answer_fields(answer)}
    elif group is not None:
        raise TypeError


def probe_groups(
    record: dict[str, Any], field: str, path: Path, number: int
) -> dict[str, list[dict[str, Any]]]:
    """The probes of `locality` or `portability`, by the name of their group."""
    groups = record.get(field) or {}
    if not isinstance(groups, dict):
        raise wrong_format(path, number, field, "must be an object of named probe groups")
    if "New Question" in groups:
        implied = [implied_probe(groups, path, number)] if groups["New Question"] else []
        return {PORTABILITY_NAME: implied}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, group in groups.items():
        try:
            found[name] = list(_grouped(group))
        except TypeError:
            rule = "must hold prompts, each with its ground_truth"
            raise wrong_format(path, number, f"{field}.{name}", rule) from None
    return found


def implied_probe(portability: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    """The probe of EasyEdit's `{Recalled Relation, New Question, New Answer}`."""
    probe = {
        "prompt": text_field(portability, "New Question", path, number),
        "ground_truth": text_field(portability, "New Answer", path, number),
    }
    if "Recalled Relation" in portability:
        probe["relation"] = portability["Recalled Relation"]
    return probe


def locality_probes(record: dict[str, Any], path: Path, number: int) -> list[dict[str, Any]]:
    """The probes of `locality`, each with its kind, and the flat one, if it isn't among them."""
    groups = probe_groups(record, "locality", path, number)
    for name, probes in groups.items():
        for probe in probes:
            kind = probe.setdefault("kind", KIND_OF_NAME.get(name, "unrelated"))
            if kind not in PROBE_KINDS or NAME_OF_KIND[kind] != name:
                probe["name"] = name
    found = _in_order(groups, record.get(ORDER.format("locality")))
    if record.get("locality_prompt") is not None:
        answer = record.get("locality_ground_truth")
        flat = {"prompt": record["locality_prompt"], **_answer_fields(answer)}
        if not any(flat.items() <= probe.items() for probe in found):
            found.append(flat)
    return found


def portability_probes(record: dict[str, Any], path: Path, number: int) -> list[dict[str, Any]]:
    """The probes of `portability`; those without an answer can't be scored and are left out."""
    groups = probe_groups(record, "portability", path, number)
    for name, probes in groups.items():
        probes[:] = [probe for probe in probes if "ground_truth" in probe]
        for probe in probes:
            if name != PORTABILITY_NAME:
                probe["name"] = name
    return _in_order(groups, record.get(ORDER.format("portability")))


def _in_order(groups: dict[str, list[dict[str, Any]]], order: Any) -> list[dict[str, Any]]:
    """Group after group, or as `order`, the group of each probe, has them."""
    waiting = {name: deque(probes) for name, probes in groups.items()}
    named = order if isinstance(order, list) else []
    first = [waiting[name].popleft() for name in named if waiting.get(name)]
    return first + [probe for probes in waiting.values() for probe in probes]


def easyedit_edit(record: dict[str, Any], path: Path, number: int) -> Edit:
    """One EasyEdit or KnowEdit record as an edit."""
    called = {theirs: name for theirs, name in _SYNONYMS.items() if name not in record}
    record = {called.get(name, name): value for name, value in record.items()}
    target = flat_answers(record.get("target_new"))
    truth = flat_answers(record.get("ground_truth"))
    rephrasings = flat_answers(record.get("rephrase_prompts"))
    for name in ("rephrase", "rephrase_prompt"):
        one = flat_answers(record.get(name))
        rephrasings = rephrasings if one == rephrasings[:1] else one + rephrasings
    extra = {k: v for k, v in record.items() if k not in _CONSUMED}
    if isinstance(extra.get("id"), int):
        extra["case_id"] = extra.pop("id")
    if target[1:]:
        extra["target_new_aliases"] = target[1:]
    if truth[1:]:
        extra["ground_truth_aliases"] = truth[1:]
    fields = {
        **extra,
        "target_new": target[0] if target else None,
        "ground_truth": truth[0] if truth else None,
        "rephrase_prompts": rephrasings,
        "locality": locality_probes(record, path, number),
        "portability": portability_probes(record, path, number),
    }
    return make_edit(fields, path, number)


def easyedit_edits(records: list[dict[str, Any]], path: Path) -> list[Edit]:
    """Edits of an EasyEdit or KnowEdit file."""
    return [easyedit_edit(record, path, n) for n, record in enumerate(records, start=1)]
