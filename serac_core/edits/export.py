"""Edits written for EasyEdit: a JSON array that its data sets and `editor.edit` take.

Each record has EasyEdit's fields (`prompt`, `target_new`, `subject`, `ground_truth`, the first
rephrasing as `rephrase_prompt`, `locality` and `portability` by name) and, beside them, what
EasyEdit has no field for, so that importing the file again gives the same edits; only the
order of probes of different kinds is lost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serac_core.edits.atomic import write_atomically
from serac_core.edits.importers.easyedit import NAME_OF_KIND, PORTABILITY_NAME
from serac_core.edits.jsonl import edit_record
from serac_core.edits.record import Edit


def _by_name(probes: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for probe in probes:
        kind = probe.get("kind")
        default = NAME_OF_KIND[kind] if kind else PORTABILITY_NAME
        groups.setdefault(probe.get("name", default), []).append(probe)
    return groups


def easyedit_record(edit: Edit) -> dict[str, Any]:
    """One edit as an EasyEdit record."""
    record = edit_record(edit)
    for field in ("locality", "portability"):
        record[field] = _by_name(record.get(field, ()))
    rephrasings = record.pop("rephrase_prompts", [])
    if rephrasings:
        record["rephrase_prompt"] = rephrasings[0]
        record["rephrase_prompts"] = rephrasings
    return record


def export_easyedit(path: str | Path, edits: Sequence[Edit]) -> None:
    """Write edits as an EasyEdit file, whole or not at all.

    Raises
    ------
    UnwritableOutput
        The file can't be written.
    """
    records = [easyedit_record(edit) for edit in edits]
    text = json.dumps(records, ensure_ascii=False, indent=1, allow_nan=False)
    write_atomically(path, [text.encode("utf-8", "backslashreplace"), b"\n"])
