"""What the importers share: reading a benchmark file, and fields with the errors they deserve."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serac_core.edits.jsonl import open_bytes
from serac_core.edits.record import Edit
from serac_core.errors import SeracError


class UnreadableBenchmark(SeracError):
    """A benchmark file is missing, isn't JSON, or a record isn't in the named format."""


def read_source(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON array or of JSON Lines."""
    try:
        text = b"".join(open_bytes(path)).decode("utf-8-sig")
    except FileNotFoundError:
        raise UnreadableBenchmark(f"{path}: no such file", remedy="check the path") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UnreadableBenchmark(
            f"{path}: not readable: {error}", remedy="check that the file is complete and UTF-8"
        ) from error
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise UnreadableBenchmark(
            f"{path}: not JSON: {error}",
            remedy="give a JSON array of records or JSON Lines, gzipped if its name ends in .gz",
        ) from error
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise UnreadableBenchmark(
                f"{path}: record {number}: a record is a JSON object, got {type(record).__name__}",
                remedy="give a JSON array of objects or JSON Lines",
            )
    return list(records)


def wrong_format(path: Path, number: int, field: str, rule: str) -> UnreadableBenchmark:
    """The error for a record that isn't in the named format."""
    return UnreadableBenchmark(
        f"{path}: record {number}: {field}: {rule}",
        remedy="check --format; formats are described in serac_core/edits/importers",
    )


def text_field(record: Mapping[str, Any], field: str, path: Path, number: int) -> str:
    """A field that must be text."""
    value = record.get(field)
    if not isinstance(value, str):
        rule = "is missing" if field not in record else f"must be text, got {value!r}"
        raise wrong_format(path, number, field, rule)
    return value


def texts_field(record: Mapping[str, Any], field: str, path: Path, number: int) -> list[str]:
    """A field that is a list of texts, or absent: none."""
    value = record.get(field, [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise wrong_format(path, number, field, f"must be a list of texts, got {value!r}")
    return value


def flat_answers(value: Any) -> list[str]:
    """Answers as benchmarks nest them (text, number, or lists of alternatives), in order."""
    if isinstance(value, list):
        return [answer for entry in value for answer in flat_answers(entry)]
    return [] if value is None else [str(value)]


def make_edit(fields: Mapping[str, Any], path: Path, number: int) -> Edit:
    """The edit of these fields; a broken rule names file, record and field."""
    try:
        return Edit.model_validate({k: v for k, v in fields.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise wrong_format(path, number, field, first["msg"]) from error
