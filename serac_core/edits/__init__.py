"""Edits: the record, JSONL, importers and exporter, merge, diff, validation.

Public names; heavy parts (validation, training set) are imported from their modules.
"""

from serac_core.edits.diff import EditSetDiff, diff_edits
from serac_core.edits.jsonl import (
    RawRecord,
    UnreadableEdits,
    UnwritableOutput,
    read_edits,
    read_records,
    write_edits,
)
from serac_core.edits.merge import (
    ConflictingEdits,
    EditSet,
    Retraction,
    live_edits,
    merge,
    read_edit_set,
)
from serac_core.edits.record import (
    Edit,
    LocalityProbe,
    PortabilityProbe,
    content_id,
    normalize_text,
)

__all__ = [
    "ConflictingEdits",
    "Edit",
    "EditSet",
    "EditSetDiff",
    "LocalityProbe",
    "PortabilityProbe",
    "RawRecord",
    "Retraction",
    "UnreadableEdits",
    "UnwritableOutput",
    "content_id",
    "diff_edits",
    "live_edits",
    "merge",
    "normalize_text",
    "read_edit_set",
    "read_edits",
    "read_records",
    "write_edits",
]
