"""Files of queries: JSON lines, each a string or an object with `query`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from serac_core.errors import SeracError


class BadQueries(SeracError):
    """The queries to route can't be read, or there are none."""


def read_queries(path: Path) -> Iterator[str]:
    """The queries of a file, line by line; bytes that are not UTF-8 become lone surrogates.

    Raises
    ------
    BadQueries
        The file can't be read, or a line is no query; names the line.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _query(path, number, line)
    except OSError as error:
        raise BadQueries(f"{path}: {error.strerror}", remedy="name a file of JSON lines") from error


def _query(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadQueries(
            f"{path}: line {number} is not JSON: {error}",
            remedy='write "text" or {"query": "text"}',
        ) from error
    query = row.get("query") if isinstance(row, dict) else row
    if not isinstance(query, str):
        raise BadQueries(
            f"{path}: line {number} has no query", remedy='write "text" or {"query": "text"}'
        )
    return query
