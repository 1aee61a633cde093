"""Edits written for EasyEdit: for its data sets, for its own scripts, or for `editor.edit`.

`easyedit` and `knowedit` are JSON arrays of records. Each record has the fields that EasyEdit reads
(`prompt`, `target_new`, `subject`, `ground_truth`, the first rephrasing as `rephrase_prompt`, one
probe as `locality_prompt` with `locality_ground_truth`; null where the edit has none), `locality`
and `portability` by name, and beside them what EasyEdit has no field for, so that importing the
file again gives the same edits. The two differ in a probe's answer: one text, or KnowEdit's list of
lists of alternatives, of which EasyEdit's scripts take `[0][0]`.

`editor` is one JSON object, the arguments of `BaseEditor.edit`; it isn't imported again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

from serac_core.edits.atomic import write_atomically
from serac_core.edits.importers.easyedit import NAME_OF_KIND, ORDER, PORTABILITY_NAME
from serac_core.edits.jsonl import edit_record
from serac_core.edits.record import Edit, LocalityProbe, PortabilityProbe

ExportFormat = Literal["easyedit", "knowedit", "editor"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

NO_GROUND_TRUTH = "<|endoftext|>"  # EasyEdit's own, where it is given none

_Probe = dict[str, Any]


def _group_of(probe: _Probe) -> str:
    kind = probe.get("kind")
    return str(probe.get("name", NAME_OF_KIND[kind] if kind else PORTABILITY_NAME))


def _by_name(probes: Sequence[_Probe]) -> dict[str, list[_Probe]]:
    groups: dict[str, list[_Probe]] = {}
    for probe in probes:
        groups.setdefault(_group_of(probe), []).append(probe)
    return groups


def _with_alternatives(probe: _Probe) -> _Probe:
    """The probe with KnowEdit's answers: a list of lists of alternatives."""
    aliases = probe.get("aliases") or []
    if "ground_truth" not in probe or not all(isinstance(alias, str) for alias in aliases):
        return probe
    rest = {name: value for name, value in probe.items() if name != "aliases" or not value}
    return {**rest, "ground_truth": [[probe["ground_truth"], *aliases]]}


def easyedit_record(edit: Edit, nested: bool = False) -> dict[str, Any]:
    """One edit as an EasyEdit record; `nested`: with answers as KnowEdit has them."""
    record = edit_record(edit)
    locality = record.get("locality", [])
    rephrasings = record.pop("rephrase_prompts", [])
    shown: _Probe = next((probe for probe in locality if "ground_truth" in probe), {})
    flat = {
        "subject": record.get("subject"),
        "ground_truth": record.get("ground_truth"),
        "rephrase_prompt": rephrasings[0] if rephrasings else None,
        "locality_prompt": shown.get("prompt"),
        "locality_ground_truth": shown.get("ground_truth"),
    }
    order: dict[str, Any] = {}
    for field in ("locality", "portability"):
        probes = record.get(field, [])
        named = [_group_of(probe) for probe in probes]
        if len([name for name, _ in groupby(named)]) > len(set(named)):
            order[ORDER.format(field)] = named
        record[field] = _by_name([_with_alternatives(p) for p in probes] if nested else probes)
    if rephrasings:
        record["rephrase_prompts"] = rephrasings
    return {**record, **flat, **order}


def _inputs(
    probes_of_edits: Sequence[Sequence[LocalityProbe | PortabilityProbe]],
) -> dict[str, dict[str, list[list[str] | None]]]:
    """EasyEdit's `locality_inputs` or `portability_inputs`: by group, one entry an edit."""
    groups = [_by_name([p.model_dump() for p in of if p.ground_truth]) for of in probes_of_edits]
    names = dict.fromkeys(name for of_edit in groups for name in of_edit)
    return {
        name: {
            field: [[probe[field] for probe in of.get(name, [])] or None for of in groups]
            for field in ("prompt", "ground_truth")
        }
        for name in names
    }


def _subject_in_prompt(edit: Edit) -> str:
    subject = edit.subject or ""
    return subject if subject in edit.prompt else ""


def editor_arguments(edits: Sequence[Edit]) -> dict[str, Any]:
    """The arguments of EasyEdit's `BaseEditor.edit` for these edits, in their order.

    EasyEdit takes one rephrasing of an edit, asserts that a subject stands in its prompt (it is
    `""` here where it doesn't) and has no place for a probe without an answer (left out here).

    Returns
    -------
    dict
        `prompts`, `target_new`, `ground_truth`, `subject` and `rephrase_prompts`: lists, an
        entry an edit; `locality_inputs` and `portability_inputs`: by group `{prompt,
        ground_truth}`, an entry an edit, a list of texts or None.
    """
    return {
        "prompts": [edit.prompt for edit in edits],
        "target_new": [edit.target_new for edit in edits],
        "ground_truth": [edit.ground_truth or NO_GROUND_TRUTH for edit in edits],
        "subject": [_subject_in_prompt(edit) for edit in edits],
        "rephrase_prompts": [next(iter(edit.rephrase_prompts), None) for edit in edits],
        "locality_inputs": _inputs([edit.locality for edit in edits]),
        "portability_inputs": _inputs([edit.portability for edit in edits]),
    }


def export_easyedit(
    path: str | Path, edits: Sequence[Edit], export_format: ExportFormat = "easyedit"
) -> None:
    """Write edits for EasyEdit, whole or not at all.

    Raises
    ------
    UnwritableOutput
        The file can't be written.
    """
    if export_format == "editor":
        made: Any = editor_arguments(edits)
    else:
        made = [easyedit_record(edit, export_format == "knowedit") for edit in edits]
    text = json.dumps(made, ensure_ascii=False, indent=1, allow_nan=False)
    write_atomically(path, [text.encode("utf-8", "backslashreplace"), b"\n"])
