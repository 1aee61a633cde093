"""Validation of what was added to an edit set whose beginning is known to be valid.

What is kept of a set that passed: how many edits and live edits it has, and its warnings. A set
with errors is never added to, so nothing of it is kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from serac_core.edits.atomic import write_atomically
from serac_core.edits.edit_files import EditFiles, file_digests, prefix_keys
from serac_core.edits.edit_index import EditIndex
from serac_core.edits.held import held_edits, known_id
from serac_core.edits.jsonl import RawRecord, read_records
from serac_core.edits.record_rules import CheckedRecord
from serac_core.edits.rules import RULES, Violation
from serac_core.edits.set_rules import live_records
from serac_core.edits.token_limits import TokenLimit
from serac_core.edits.validation import ValidationReport, check_records

_FOLDER = "validation"
_KEPT = 64


class ValidationCache:
    """What earlier validations found of the first files of an edit set.

    Parameters
    ----------
    limits:
        Part of what a result is kept by, as are the rules.
    """

    def __init__(self, files: EditFiles, limits: Sequence[TokenLimit], cache_dir: Path) -> None:
        self._files = files
        self._limits = limits
        self._cache_dir = cache_dir
        self._keys = prefix_keys(
            file_digests(files),
            version("serac-ops"),
            repr(RULES),
            *(f"{limit.setting} {limit.model} {limit.tokens} {limit.chat}" for limit in limits),
        )

    def check_added(
        self, now: datetime | None
    ) -> tuple[list[CheckedRecord], ValidationReport] | None:
        """The records of the updates that no kept result knows, checked together with what they
        can meet, and the report of the whole set; None where nothing is kept of its beginning."""
        for known in range(len(self._keys) - 1, 0, -1):
            before = self._read(self._keys[known - 1])
            if before is not None:
                return self._check_after(known, before, now)
        return None

    def keep(self, report: ValidationReport) -> None:
        """Keep the result of the whole set, if it passed."""
        if not report.passed:
            return
        folder = self._cache_dir / _FOLDER
        kept = {
            "edits": report.edits,
            "live": report.live,
            "violations": [asdict(violation) for violation in report.violations],
        }
        write_atomically(folder / f"{self._keys[-1]}.json", [json.dumps(kept).encode()])
        files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for old in files[:-_KEPT]:
            old.unlink(missing_ok=True)

    def _read(self, key: str) -> ValidationReport | None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            path = self._cache_dir / _FOLDER / f"{key}.json"
            kept = json.loads(path.read_text(encoding="utf-8"))
            violations = tuple(Violation(**found) for found in kept["violations"])
            return ValidationReport(int(kept["edits"]), int(kept["live"]), violations)
        return None

    def _check_after(
        self, known: int, before: ValidationReport, now: datetime | None
    ) -> tuple[list[CheckedRecord], ValidationReport]:
        paths = self._files.paths
        index = EditIndex(EditFiles(paths[0], paths[1:known]), self._cache_dir)
        read = [record for path in paths[known:] for record in read_records(path)]
        placed = [RawRecord(index.lines + n, r.value) for n, r in enumerate(read, start=1)]
        met = index.around(check_records(placed, now=now))
        held = held_edits(met)
        added = [record for record in placed if known_id(record.value, held) is None]
        alone = check_records(met, self._limits, now=now)
        together = check_records([*met, *added], self._limits, now=now)
        old = {(v.line, v.rule, v.field) for record in alone for v in record.violations}
        new = [
            v
            for record in together
            for v in record.violations
            if (v.line, v.rule, v.field) not in old
        ]
        lines = {record.line for record in added}
        checked = [record for record in together if record.line in lines]
        report = ValidationReport(
            edits=before.edits + sum(not record.retraction for record in checked),
            live=before.live + len(live_records(together)) - len(live_records(alone)),
            violations=(*before.violations, *sorted(new, key=lambda v: (v.line, v.field))),
        )
        self.keep(report)
        broken = {v.line for v in new} - lines
        return [record for record in together if record.line in lines | broken], report
