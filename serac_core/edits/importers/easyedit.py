"""EasyEdit's request format and KnowEdit (Zhang et al. 2024), which nests its probes.

A record: `prompt` (`text`), `target_new` (`labels`), `subject` (`concept`), `ground_truth`,
`rephrase_prompt` or `rephrase` (text or list), `locality_prompt` with
`locality_ground_truth`, and `locality` and `portability` by name, each either a list of
`{prompt, ground_truth}` or an object `{prompt, ground_truth}` of texts or lists. Answers may
be lists of alternatives: the first counts, the others are kept as `aliases`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serac_core.edits.importers.source_file import flat_answers, make_edit, wrong_format
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
}


def _answer_fields(value: Any) -> dict[str, Any]:
    answers = flat_answers(value)
    fields: dict[str, Any] = {"ground_truth": answers[0]} if answers else {}
    return {**fields, "aliases": answers[1:]} if answers[1:] else fields


def _grouped(group: Any) -> Iterator[dict[str, Any]]:
    """The probes of one named group, whichever way it is written."""
    if isinstance(group, list):
        for probe in group:
            if not isinstance(probe, dict):
                raise TypeError
            prompts = flat_answers(probe.get("prompt"))
            for prompt in prompts:
                rest = {k: v for k, v in probe.items() if k not in ("prompt", "ground_truth")}
                yield {**rest, "prompt": prompt, **_answer_fields(probe.get("ground_truth"))}
    elif isinstance(group, dict):
        prompts = flat_answers(group.get("prompt"))
        answers = group.get("ground_truth")
        each = answers if isinstance(answers, list) else [answers] * len(prompts)
        if len(each) != len(prompts):
            raise TypeError
        for prompt, answer in zip(prompts, each, strict=True):
            yield {"prompt": prompt, **_answer_fields(answer)}
    elif group is not None:
        raise TypeError


def _probes(record: dict[str, Any], field: str, path: Path, number: int) -> list[dict[str, Any]]:
    groups = record.get(field) or {}
    if not isinstance(groups, dict):
        raise wrong_format(path, number, field, "must be an object of named probe groups")
    probes: list[dict[str, Any]] = []
    for name, group in groups.items():
        try:
            found = list(_grouped(group))
        except TypeError:
            rule = "must hold prompts, each with its ground_truth"
            raise wrong_format(path, number, f"{field}.{name}", rule) from None
        if field == "portability":
            named = {} if name == PORTABILITY_NAME else {"name": name}
            # A probe without an answer can't be scored, and the record has no place for it.
            probes += [{**p, **named} for p in found if "ground_truth" in p]
        else:
            kind = KIND_OF_NAME.get(name, "unrelated")
            named = {} if NAME_OF_KIND[kind] == name else {"name": name}
            probes += [{"kind": kind, **p, **named} for p in found]
    return probes


def easyedit_edit(record: dict[str, Any], path: Path, number: int) -> Edit:
    """One EasyEdit or KnowEdit record as an edit."""
    record = {_SYNONYMS.get(name, name): value for name, value in record.items()}
    target = flat_answers(record.get("target_new"))
    truth = flat_answers(record.get("ground_truth"))
    rephrasings = flat_answers(record.get("rephrase_prompts"))
    for name in ("rephrase", "rephrase_prompt"):
        one = flat_answers(record.get(name))
        rephrasings = rephrasings if one == rephrasings[:1] else one + rephrasings
    locality = _probes(record, "locality", path, number)
    if record.get("locality_prompt") is not None:
        answer = record.get("locality_ground_truth")
        locality.append({"prompt": record["locality_prompt"], **_answer_fields(answer)})
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
        "locality": locality,
        "portability": _probes(record, "portability", path, number),
    }
    return make_edit(fields, path, number)


def easyedit_edits(records: list[dict[str, Any]], path: Path) -> list[Edit]:
    """Edits of an EasyEdit or KnowEdit file."""
    return [easyedit_edit(record, path, n) for n, record in enumerate(records, start=1)]
