"""The edits that are served, made from the edit set that people work on."""

from __future__ import annotations

from pathlib import Path

from serac_core.edits.atomic import folder_aside
from serac_core.edits.jsonl import write_edits
from serac_core.edits.merge import live_edits, read_edit_set

LIVE_FILE = "edits.jsonl"


def build_live(source: str | Path, out: str | Path, first: int = 0) -> int:
    """Write `out/edits.jsonl`: active edits, superseded and retracted ones left out.

    Oldest first (by `created_at`, then by id), so that the newest edit stands last whatever the
    order of the source's lines; the same edit set gives the same bytes.

    Parameters
    ----------
    first:
        How many of them to write at most; 0: all. What is superseded or retracted by any edit
        of the set is left out first, so a narrower width is the beginning of a wider one.

    Returns
    -------
    int
        How many edits are live.

    Raises
    ------
    UnreadableEdits
        The source isn't an edit set.
    ConflictingEdits
        Two live edits contradict each other, or an id is unknown or used twice.
    UnwritableOutput
        `out` can't be written; what was there stays.
    """
    edits = live_edits(read_edit_set(source))[: first or None]
    with folder_aside(out) as folder:
        write_edits(folder / LIVE_FILE, edits)
    return len(edits)
