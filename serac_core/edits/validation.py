"""Validation of an edit set: the rules, the suite over them, and the result for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serac_core.edits.atomic import folder_aside
from serac_core.edits.edit_files import EditFiles, edit_files, read_file_records
from serac_core.edits.jsonl import RawRecord
from serac_core.edits.record_rules import CheckedRecord, check_record
from serac_core.edits.rules import RULES, Violation
from serac_core.edits.set_rules import check_set, live_records
from serac_core.edits.token_limits import TokenLimit, check_lengths
from serac_core.errors import NegativeAnswer

RESULT_FILE = "result.json"
DATA_DOCS = "data_docs"


class InvalidEdits(NegativeAnswer):
    """Edits break a rule of severity error."""


@dataclass(frozen=True)
class ValidationReport:
    """What the rules found in an edit set.

    `edits` counts records without retractions by name, `live` those that would be served.
    """

    edits: int
    live: int
    violations: tuple[Violation, ...]

    @property
    def errors(self) -> tuple[Violation, ...]:
        """The violations that keep the edit set from being served."""
        return tuple(v for v in self.violations if RULES[v.rule].severity == "error")

    @property
    def warnings(self) -> tuple[Violation, ...]:
        """The violations that a person should look at."""
        return tuple(v for v in self.violations if RULES[v.rule].severity == "warning")

    @property
    def passed(self) -> bool:
        """Whether no rule of severity error is broken."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """The report for machines: counts, every rule with its failing ids, every violation."""
        ids: dict[str, list[str]] = {name: [] for name in RULES}
        for violation in self.violations:
            if violation.id not in ids[violation.rule][-1:]:
                ids[violation.rule].append(violation.id)
        counts = Counter(violation.rule for violation in self.violations)
        rules = [
            {
                **asdict(rule),
                "passed": not counts[rule.name],
                "violations": counts[rule.name],
                "ids": ids[rule.name],
            }
            for rule in RULES.values()
        ]
        return {
            "passed": self.passed,
            "edits": self.edits,
            "live": self.live,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "rules": rules,
            "violations": [
                {"severity": RULES[violation.rule].severity, **asdict(violation)}
                for violation in self.violations
            ],
        }


def check_records(
    records: Sequence[RawRecord],
    limits: Sequence[TokenLimit] = (),
    *,
    now: datetime | None = None,
) -> list[CheckedRecord]:
    """Hold raw records to every rule; what each breaks is in its `violations`.

    Parameters
    ----------
    limits:
        Token limits of the configured models; without any, lengths aren't checked.
    now:
        What `created_at` may not lie beyond (a day of clock difference is allowed); the
        machine's time when None.
    """
    now = now or datetime.now(UTC)
    checked = [check_record(record, now) for record in records]
    check_set(checked)
    if limits:
        check_lengths(checked, limits)
    return checked


def _report(checked: Sequence[CheckedRecord]) -> ValidationReport:
    order = {name: at for at, name in enumerate(RULES)}
    found = (violation for record in checked for violation in record.violations)
    return ValidationReport(
        edits=sum(not record.retraction for record in checked),
        live=len(live_records(checked)),
        violations=tuple(sorted(found, key=lambda v: (v.line, order[v.rule], v.field))),
    )


def find_violations(
    records: Sequence[RawRecord],
    limits: Sequence[TokenLimit] = (),
    *,
    now: datetime | None = None,
) -> ValidationReport:
    """The report without Great Expectations, for a change about to be written."""
    return _report(check_records(records, limits, now=now))


def validate_edits(
    path: str | Path,
    limits: Sequence[TokenLimit],
    *,
    updates: str | Path | None = None,
    out: str | Path | None = None,
    cache_dir: Path | None = None,
    now: datetime | None = None,
) -> ValidationReport:
    """Validate a file of edits, and the updates after it, with the Great Expectations suite.

    Parameters
    ----------
    updates:
        Folder of the updates that count after the file.
    out:
        Folder for `result.json` and `data_docs/`, written whole whether or not the edits pass.
    cache_dir:
        Where results are kept, so that only what was added since is checked, with the edits that it
        can meet; the suite then runs over what is new. Whether the edits pass doesn't depend on it.

    Raises
    ------
    UnreadableEdits
        The file isn't JSON Lines.
    UnwritableOutput
        `out` can't be written.
    BrokenSuite
        Great Expectations failed.
    """
    from serac_core.edits.expectations import run_suite

    files = edit_files(path, updates)
    checked, report = _checked(files, limits, cache_dir, now)
    if out is None:
        run_suite(checked)
        return report
    with folder_aside(out) as folder:
        run_suite(checked, docs=folder.resolve() / DATA_DOCS)
        content = {**report.to_json(), "checked": len(checked)}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / RESULT_FILE).write_bytes(text.encode("utf-8", "backslashreplace") + b"\n")
    return report


def _checked(
    files: EditFiles, limits: Sequence[TokenLimit], cache_dir: Path | None, now: datetime | None
) -> tuple[list[CheckedRecord], ValidationReport]:
    """The records that had to be checked, and the report of all."""
    from serac_core.edits.validation_cache import ValidationCache

    cache = ValidationCache(files, limits, cache_dir) if cache_dir is not None else None
    if cache is not None and (found := cache.check_added(now)) is not None:
        return found
    checked = check_records(read_file_records(files), limits, now=now)
    report = _report(checked)
    if cache is not None:
        cache.keep(report)
    return checked, report
