"""Finds the edits that a change may concern among many: an index of their ids and texts.

It is kept by the content of each file in a database below the cache folder, so that what is
looked up grows with the change, not with the edit set. Without it, or damaged, it is made again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal

from serac_core.edits.atomic import UnwritableOutput
from serac_core.edits.edit_files import EditFiles, file_digests
from serac_core.edits.jsonl import RawRecord, read_records
from serac_core.edits.record_rules import CheckedRecord, check_record

Kind = Literal["id", "text", "supersedes"]

_KINDS: tuple[Kind, ...] = ("id", "text", "supersedes")
_FILE = "edit-index.sqlite"
_FORMAT = 1
_KEPT_SECONDS = 14 * 86400
_ASKED_AT_ONCE = 500
_WAIT_SECONDS = 300
_TABLES = """
create table if not exists files (
    number integer primary key, digest text unique, lines integer, used real
);
create table if not exists entries (
    kind integer, hash integer, file integer, start integer, line integer,
    primary key (kind, hash, file, start)
) without rowid;
create index if not exists entries_of_file on entries (file);
"""


class EditIndex:
    """The records of an edit set's files, found by id, by text or by what they supersede.

    Parameters
    ----------
    cache_dir:
        Where the database is kept.

    Attributes
    ----------
    lines:
        Of all files together.

    Raises
    ------
    UnreadableEdits, UnwritableOutput
    """

    def __init__(self, files: EditFiles, cache_dir: Path) -> None:
        self._paths: dict[int, Path] = {}
        self._first_line: dict[int, int] = {}
        self.lines = 0
        cache_dir.mkdir(parents=True, exist_ok=True)
        self._database = cache_dir / _FILE
        try:
            self._fill(files)
        except sqlite3.OperationalError as error:
            raise UnwritableOutput(
                f"{self._database}: {error}",
                remedy="free space, see that you may write there, or delete the file",
            ) from error
        except sqlite3.DatabaseError:
            self._database.unlink()
            self._fill(files)

    def around(self, changed: Sequence[CheckedRecord]) -> list[RawRecord]:
        """The records that a change can meet: those that share an id or a text with it, what
        these supersede or are superseded by, and the lines that retract them."""
        with closing(self._open()) as database:
            texts = {text for record in changed for text in texts_of(record)}
            found = self._find(database, "text", texts)
            asked: set[str] = set()
            names = {name for record in changed for name in _names_of(record)}
            while new := names - asked:
                asked |= new
                found |= self._find(database, "id", new) | self._find(database, "supersedes", new)
                names = {name for record in self._read(found) for name in _names_in(record.value)}
            return self._read(found)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._database, timeout=_WAIT_SECONDS)
        database.execute("pragma synchronous = off")
        return database

    def _fill(self, files: EditFiles) -> None:
        with closing(self._open()) as database, database:
            database.execute("begin immediate")
            if database.execute("pragma user_version").fetchone()[0] != _FORMAT:
                for table in ("files", "entries"):
                    database.execute(f"drop table if exists {table}")
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.execute(f"pragma user_version = {_FORMAT}")
            now, first = time.time(), 0
            for path, digest in zip(files.paths, file_digests(files), strict=True):
                row = database.execute(
                    "select number, lines from files where digest = ?", (digest,)
                ).fetchone()
                number, lines = row or self._add(database, path, digest)
                database.execute("update files set used = ? where number = ?", (now, number))
                self._paths[number], self._first_line[number] = path, first
                first += lines
            self.lines = first
            old = database.execute(
                "select number from files where used < ?", (now - _KEPT_SECONDS,)
            ).fetchall()
            for (number,) in old:
                database.execute("delete from entries where file = ?", (number,))
                database.execute("delete from files where number = ?", (number,))

    def _add(self, database: sqlite3.Connection, path: Path, digest: str) -> tuple[int, int]:
        read_records(path)  # says what is wrong with it
        added = database.execute("insert into files (digest) values (?)", (digest,))
        number, now, lines = int(added.lastrowid or 0), datetime.now(UTC), 0

        def rows() -> Iterator[tuple[int, int, int, int, int]]:
            nonlocal lines
            start = 0
            with _open_plain(path) as handle:
                for lines, raw in enumerate(handle, start=1):
                    if raw.strip():
                        value = json.loads(raw.decode("utf-8-sig"))
                        record = check_record(RawRecord(lines, value), now)
                        for kind, texts in (
                            ("id", [record.id]),
                            ("text", texts_of(record)),
                            ("supersedes", [record.supersedes] if record.supersedes else []),
                        ):
                            for text in texts:
                                yield _KINDS.index(kind), _key(text), number, start, lines
                    start += len(raw)

        database.executemany("insert or ignore into entries values (?, ?, ?, ?, ?)", rows())
        database.execute("update files set lines = ? where number = ?", (lines, number))
        return number, lines

    def _find(
        self, database: sqlite3.Connection, kind: Kind, texts: Iterable[str]
    ) -> set[tuple[int, int, int]]:
        """File, offset and line of the records that have one of the texts."""
        keys = [_key(text) for text in texts]
        found: set[tuple[int, int, int]] = set()
        for first in range(0, len(keys), _ASKED_AT_ONCE):
            asked = keys[first : first + _ASKED_AT_ONCE]
            marks = ",".join("?" * len(asked))
            rows = database.execute(
                f"select file, start, line from entries where kind = ? and hash in ({marks})",
                (_KINDS.index(kind), *asked),
            )
            found.update(row for row in rows if row[0] in self._paths)
        return found

    def _read(self, places: set[tuple[int, int, int]]) -> list[RawRecord]:
        records = []
        for number in self._paths:
            of_file = sorted(place for place in places if place[0] == number)
            if not of_file:
                continue
            with _open_plain(self._paths[number]) as handle:
                for _, start, line in of_file:
                    handle.seek(start)
                    value = json.loads(handle.readline().decode("utf-8-sig"))
                    records.append(RawRecord(self._first_line[number] + line, value))
        return records


def texts_of(record: CheckedRecord) -> set[str]:
    """The normalised texts by which a record may meet another one."""
    probes = (*record.locality, *record.portability)
    found = {record.normal_prompt, *(normal for _, _, normal in record.rephrasings)}
    return {text for text in found | {probe.normal for probe in probes} if text}


def _names_of(record: CheckedRecord) -> set[str]:
    return {record.id, *([record.supersedes] if record.supersedes else [])}


def _names_in(value: object) -> set[str]:
    if not isinstance(value, dict):
        return set()
    record = check_record(RawRecord(0, value), datetime.now(UTC))
    return _names_of(record)


def _open_plain(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _key(text: str) -> int:
    """64 bits, signed, as the database keeps them."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
