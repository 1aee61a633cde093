"""Benchmark and EasyEdit files into edits; each format's fields are described in its module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from serac_core.edits.importers.counterfact import counterfact_edits
from serac_core.edits.importers.easyedit import easyedit_edits
from serac_core.edits.importers.halluedit import halluedit_edits
from serac_core.edits.importers.mquake import mquake_edits
from serac_core.edits.importers.pokemqa import pokemqa_edits
from serac_core.edits.importers.source_file import UnreadableBenchmark, read_source
from serac_core.edits.importers.zsre import zsre_edits
from serac_core.edits.record import Edit

__all__ = ["FORMATS", "Format", "UnreadableBenchmark", "import_edits"]

Format = Literal["easyedit", "counterfact", "zsre", "mquake", "knowedit", "halluedit", "pokemqa"]
FORMATS: tuple[Format, ...] = get_args(Format)

_READERS: dict[Format, Callable[[list[dict[str, Any]], Path], list[Edit]]] = {
    "easyedit": easyedit_edits,
    "knowedit": easyedit_edits,
    "counterfact": counterfact_edits,
    "zsre": zsre_edits,
    "mquake": mquake_edits,
    "halluedit": halluedit_edits,
    "pokemqa": pokemqa_edits,
}


def import_edits(path: str | Path, source_format: Format) -> list[Edit]:
    """The edits of a benchmark file, in its order; JSON array or JSON Lines, gzip by `.gz`.

    Nothing is judged or left out here (an empty target stays one): that is validation's part.
    Fields that the record doesn't know are kept under their own names.

    Raises
    ------
    UnreadableBenchmark
        The file is unreadable or a record lacks what the format asks for; names file, record
        (counted from 1), field and rule.
    """
    path = Path(path)
    return _READERS[source_format](read_source(path), path)
