"""Files of queries: JSON lines, each a string or an object with `query`; gzip by the name `.gz`."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from serac_core.errors import SeracError


class BadQueries(SeracError):
    """The queries to route can't be read, or there are none."""


class QueryFile:
    """The queries of a file, read line by line; blank lines are skipped, bytes that are not
    UTF-8 become lone surrogates.

    Iterating raises :class:`BadQueries` where the file can't be read or a line is no query; it
    names the line. A pipe can be read once.

    Parameters
    ----------
    span:
        Only the queries from one number, counted from 0, up to but without another.
    """

    def __init__(self, path: Path, span: tuple[int, int] | None = None) -> None:
        self.path = path
        self._span = span
        self._raw: BinaryIO | None = None
        self._size = 0

    @property
    def share(self) -> float | None:
        """Share of the file that was read, from 0 to 1 (of the packed bytes where it is packed);
        None where its size isn't known."""
        if self._raw is None or self._raw.closed or not self._size:
            return None
        return min(1.0, self._raw.tell() / self._size)

    def __iter__(self) -> Iterator[str]:
        return islice(self._all(), *self._span) if self._span else self._all()

    def _all(self) -> Iterator[str]:
        number = 0
        try:
            with self.path.open("rb") as raw:
                stat = self.path.stat()
                self._raw, self._size = raw, stat.st_size if self.path.is_file() else 0
                unpacked = gzip.GzipFile(fileobj=raw) if self.path.suffix == ".gz" else raw
                lines = io.TextIOWrapper(unpacked, encoding="utf-8-sig", errors="surrogateescape")
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield _query(self.path, number, line)
        except (OSError, EOFError, zlib.error) as error:
            why = getattr(error, "strerror", None) or error
            where = f"after line {number}: " if number else ""
            raise BadQueries(
                f"{self.path}: {where}{why}",
                remedy="name a complete file of JSON lines that you may read",
            ) from error


def read_queries(path: Path) -> Iterator[str]:
    """The queries of a file, line by line; bytes that are not UTF-8 become lone surrogates.

    Raises
    ------
    BadQueries
        The file can't be read, or a line is no query; names the line.
    """
    yield from QueryFile(path)


def _query(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
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
