"""The rules as a Great Expectations suite, run over the edit set; Data Docs for people.

The frame has a row a record and a column a rule, which holds what broke the rule or nothing;
an expectation a rule asks the column to be empty. Great Expectations keeps state by process:
one validation a process.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serac_core.edits.record_rules import CheckedRecord
from serac_core.edits.rules import RULES
from serac_core.errors import SeracError

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations import ExpectationSuite

SUITE = "edits"
_SHOWN_VALUES = 20
# Stage outputs are compared by content, so what differs between two runs is taken out.
_RUN_TIME = datetime(2000, 1, 1, tzinfo=UTC)
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_STAMP = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
_FINGERPRINT = re.compile(r"(?<=pandas_data_fingerprint)(.{0,200}?)[0-9a-f]{32}", re.DOTALL)
_REMOTE_LOGO = re.compile(
    r"https://great-expectations-web-assets[^\"'?]*/logo-long\.png\?d=\d{8}T\d{6}\.\d{6}Z"
)


class BrokenSuite(SeracError):
    """Great Expectations couldn't evaluate a rule, or counted otherwise than the rule did."""


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """What Great Expectations found for one rule: failing records of those evaluated."""

    rule: str
    passed: bool
    failing_records: int
    records: int


def edit_suite() -> ExpectationSuite:
    """The suite: an expectation a rule, with severity and remedy."""
    import great_expectations as gx
    from great_expectations.expectations.core.expect_column_values_to_be_null import (
        ExpectColumnValuesToBeNull,
    )
    from great_expectations.expectations.metadata_types import FailureSeverity

    severity = {"error": FailureSeverity.CRITICAL, "warning": FailureSeverity.WARNING}
    return gx.ExpectationSuite(
        name=SUITE,
        expectations=[
            ExpectColumnValuesToBeNull(
                column=rule.name,
                severity=severity[rule.severity],
                meta={"severity": rule.severity, "remedy": rule.remedy},
                notes=f"**{rule.severity}**: {rule.says}. Remedy: {rule.remedy}.",
            )
            for rule in RULES.values()
        ],
    )


def _for_page(text: str) -> str:
    """Data Docs put values into pages as they are: marks of HTML and half characters escaped."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode(), quote=False)


def rule_frame(records: Sequence[CheckedRecord]) -> pd.DataFrame:
    """One row a record and a column a rule, with the record and what broke the rule, or None."""
    import numpy as np
    import pandas as pd

    columns = {name: np.full(len(records), None, dtype=object) for name in RULES}
    for row, record in enumerate(records):
        for broken in record.violations:
            text = _for_page(f"{broken.field}: {broken.value} ({broken.detail})")
            before = columns[broken.rule][row]
            said = (
                f"{before}; {text}"
                if before
                else f"{_for_page(record.id)}, line {record.line}, {text}"
            )
            columns[broken.rule][row] = said
    return pd.DataFrame({name: pd.Series(data, dtype=data.dtype) for name, data in columns.items()})


def run_suite(records: Sequence[CheckedRecord], docs: Path | None = None) -> list[RuleOutcome]:
    """Evaluate the suite over checked records; Data Docs go to the folder `docs` when given.

    Raises
    ------
    BrokenSuite
        An expectation raised, or the count isn't that of the rule.
    """
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    frame = rule_frame(records)
    source = context.data_sources.add_pandas(SUITE)
    batch = source.add_dataframe_asset(SUITE).add_batch_definition_whole_dataframe(SUITE)
    suite = context.suites.add(edit_suite())
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=SUITE, data=batch, suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=SUITE,
            validation_definitions=[definition],
            result_format={
                "result_format": "SUMMARY",
                "partial_unexpected_count": _SHOWN_VALUES,
            },
        )
    )
    if docs is not None:
        context.add_data_docs_site(
            SUITE,
            {
                "class_name": "SiteBuilder",
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "store_backend": {
                    "class_name": "TupleFilesystemStoreBackend",
                    "base_directory": str(docs),
                },
            },
        )
    run = checkpoint.run(
        batch_parameters={"dataframe": frame},
        run_id=RunIdentifier(run_name=SUITE, run_time=_RUN_TIME),
    )
    (result,) = run.run_results.values()
    outcomes = [_outcome(entry.to_json_dict(), frame) for entry in result.results]
    if docs is not None:
        context.build_data_docs()
        _make_reproducible(docs)
    return outcomes


def _outcome(entry: Mapping[str, Any], frame: pd.DataFrame) -> RuleOutcome:
    rule = entry["expectation_config"]["kwargs"]["column"]
    found = entry["result"]
    expected = int(frame[rule].notna().sum())
    if entry["exception_info"].get("raised_exception", False) or (
        len(frame) and found.get("unexpected_count") != expected
    ):
        raise BrokenSuite(
            f"expectation of rule {rule}: {entry['exception_info']} {found}"[:500],
            remedy="check the installed great_expectations against the constraints file",
        )
    return RuleOutcome(rule, bool(entry["success"]), expected, len(frame))


def _make_reproducible(docs: Path) -> None:
    """Same validation, same bytes: made-up ids are numbered, times are fixed, the logo is the
    local one, and pictures that no page shows are left out."""
    pages = sorted(docs.rglob("*.html"))
    numbers: dict[str, str] = {}

    def numbered(match: re.Match[str]) -> str:
        number = len(numbers) + 1
        return numbers.setdefault(match.group(), f"00000000-0000-4000-8000-{number:012d}")

    fixed = _RUN_TIME.strftime("%Y%m%dT%H%M%S.%fZ")
    shown = ""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        up = "../" * (len(page.relative_to(docs).parts) - 1)
        text = _REMOTE_LOGO.sub(f"{up}static/images/logo-long.png", text)
        text = _FINGERPRINT.sub(lambda match: match.group(1) + "0" * 32, text)
        text = _STAMP.sub(fixed, _UUID.sub(numbered, text))
        page.write_text(text, encoding="utf-8")
        shown += text
    for picture in sorted((docs / "static" / "images").glob("*")):
        if picture.name not in shown:
            picture.unlink()
    shutil.rmtree(docs / "static" / "fonts", ignore_errors=True)
