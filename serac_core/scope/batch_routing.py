"""Routing a file of queries: in constant memory, and going on after a kill.

Decisions are appended to `OUT.part`, beside the output, chunk by chunk; `OUT.part.json` says what
makes them: release, variant, provider, calibration. The next run by the same compares the
queries of the part with the input's, keeps its whole chunks and goes on after them. So the output
has the bytes of an unbroken run: a vector depends in rounding on the chunk that it is encoded in.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from serac_core.edits.atomic import UnwritableOutput, fsync, write_atomically
from serac_core.errors import SeracError
from serac_core.progress import Say
from serac_core.release.manifest import MANIFEST, file_sha256
from serac_core.scope.queries import BadQueries, QueryFile
from serac_core.scope.router import Decision, Router, decision_line

CHUNK = 256
"""Queries decided and written at once."""
FORMAT = 1
_TOLD_EVERY = 2.0  # seconds


class BusyOutput(SeracError):
    """Another process writes this output."""


@dataclass(frozen=True, slots=True)
class RoutedFile:
    """What :func:`route_file` did.

    Attributes
    ----------
    queries:
        Lines of the output.
    resumed:
        How many of them an earlier run had decided.
    seconds:
        Of this run, reading and comparing what was there included.
    """

    queries: int
    resumed: int
    seconds: float


class _OtherPart(Exception):
    """The part can't be gone on with: says why."""


def part_of(output: Path) -> Path:
    """Where the decisions are until all are made."""
    return output.with_name(output.name + ".part")


def state_of(output: Path) -> Path:
    """What makes the decisions of the part."""
    return output.with_name(output.name + ".part.json")


def route_file(
    release: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    variant: str = "fp32",
    provider: str = "cpu",
    threads: int | None = None,
    chunk: int = CHUNK,
    span: tuple[int, int] | None = None,
    say: Say = lambda line: None,
) -> RoutedFile:
    """Decide on each query of a file; the decisions, in its order, as JSON lines.

    What is at `output` stays until all are made. Killed at any moment and called again with the
    same arguments it goes on after the last whole chunk and ends with the same bytes. A part made
    by another release, variant, provider, number of threads or calibration, or of other queries,
    is not used; one whose queries are the first of `source` is, so that a line can be mended and
    lines can be added.

    Parameters
    ----------
    source:
        JSON lines, each a string or an object with `query`; gzip by the name `.gz`.
    span:
        Which queries: from the first, counted from 0, up to but without the second; None for all.

    Raises
    ------
    BadQueries
        `source` can't be read or a line is no query; names the line. What was decided before
        is kept.
    BusyOutput, UnwritableOutput
        And what loading the release raises.
    """
    started = time.monotonic()
    source, output = Path(source), Path(output)
    _require_places(source, output)
    router = Router.load(release, variant, provider, threads)
    maker = _maker(Path(release), router, provider, threads, chunk)
    queries = QueryFile(source, span)
    asked = iter(queries)
    with _writing(output), _locked(part_of(output)) as part:
        done = _resume(part, output, maker, asked, chunk, say) if source.is_file() else 0
        if not done:
            asked = iter(queries)  # from the beginning, which may have been read for comparison
            _start_over(part, output, maker)
        resumed = done
        try:
            for decisions in routed(router, asked, queries, chunk=chunk, done=done, say=say):
                part.write("".join(decision_line(made) + "\n" for made in decisions).encode())
                part.flush()
                done += len(decisions)
        except (BadQueries, KeyboardInterrupt):
            if done:
                say(f"{done} decisions are kept in {part_of(output)}; the same command goes on")
            else:
                _discard(output)
            raise
        os.fsync(part.fileno())
        part_of(output).replace(output)
        state_of(output).unlink(missing_ok=True)
        fsync(output.parent)
    return RoutedFile(done, resumed, time.monotonic() - started)


def routed(
    router: Router,
    asked: Iterable[str],
    file: QueryFile | None = None,
    *,
    chunk: int = CHUNK,
    done: int = 0,
    say: Say = lambda line: None,
) -> Iterator[list[Decision]]:
    """Decide chunk by chunk, telling how far it is every two seconds and at the end.

    Parameters
    ----------
    file:
        Where the queries come from, for the share that is done and the time left.
    done:
        Queries decided before these, counted in what is told.
    """
    before, queries = done, iter(asked)
    started = told = time.monotonic()
    share_before = file.share if file is not None else None
    while texts := list(islice(queries, chunk)):
        yield router.route(texts)
        done += len(texts)
        if time.monotonic() - told >= _TOLD_EVERY:
            told = time.monotonic()
            share = file.share if file is not None else None
            say(_progress(done, before, share, share_before or 0.0, told - started))
    say(_progress(done, before, None, 0.0, time.monotonic() - started))


def _progress(
    done: int, before: int, share: float | None, share_before: float, seconds: float
) -> str:
    line = f"{done} queries, {(done - before) / max(seconds, 1e-9):.0f}/s"
    if share is None:
        return line
    if share > share_before:
        left = seconds * (1 - share) / (share - share_before)
        return f"{line}, {share:.1%} of the file, ETA {left:.0f} s"
    return f"{line}, {share:.1%} of the file"


def _require_places(source: Path, output: Path) -> None:
    for place in (output, part_of(output), state_of(output)):
        if source == place or (source.exists() and place.exists() and source.samefile(place)):
            raise BadQueries(f"{source} is both --input and --output", remedy="name a new file")
    if output.exists() and not output.is_file():
        raise UnwritableOutput(
            f"{output}: is no file", remedy="name a file, or leave --output out to print"
        )
    if not source.exists():
        raise BadQueries(f"{source}: no such file", remedy="name a file of JSON lines")


def _maker(
    release: Path, router: Router, provider: str, threads: int | None, chunk: int
) -> dict[str, object]:
    """What the bytes of a part depend on, besides the queries."""
    names = (MANIFEST, "memory/manifest.json", "scope/calibration.json")
    return {
        "format": FORMAT,
        "encoder": router.encoder.digest,
        "variant": router.encoder.variant,
        "provider": provider,
        "threads": threads,
        "chunk": chunk,
        "files": {n: file_sha256(release / n) for n in names if (release / n).is_file()},
    }


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UnwritableOutput(
            f"{output}: can't be written: {error.strerror or error}",
            remedy="free space or choose a place you may write to; what was there is unchanged, "
            f"decisions that were made are kept in {part_of(output).name}",
        ) from error


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The part, opened for this process alone."""
    while True:
        with part.open("a+b") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyOutput(
                    f"{part}: another process is writing it",
                    remedy="wait for it, or name another --output",
                ) from None
            if part.exists() and os.path.samestat(os.fstat(handle.fileno()), part.stat()):
                yield handle
                return


def _resume(
    part: BinaryIO,
    output: Path,
    maker: dict[str, object],
    asked: Iterator[str],
    chunk: int,
    say: Say,
) -> int:
    """How many decisions of the part stand; what comes after them is cut off. The queries that
    they are about are taken from `asked`; 0 where none stand."""
    if not part.seek(0, os.SEEK_END):
        return 0
    try:
        if _read_state(state_of(output)) != maker:
            raise _OtherPart("was made by another release, variant or calibration")
        done, size = _standing(part, asked, chunk)
    except _OtherPart as why:
        say(f"{part_of(output)} {why}: starting over")
        return 0
    part.truncate(size)
    if done:
        say(f"{done} decisions are there already: going on after them")
    return done


def _read_state(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _standing(part: BinaryIO, asked: Iterator[str], chunk: int) -> tuple[int, int]:
    """Decisions in whole chunks, and their bytes.

    The queries of a chunk are taken only when all its decisions were found.
    """
    part.seek(0)
    done = size = 0
    while len(lines := list(islice(part, chunk))) == chunk:
        about = [_query_of(line) for line in lines]
        if None in about:
            break  # torn by a crash of the machine; the rest is made anew
        queries = [_as_written(query) for query in islice(asked, chunk)]
        if about != queries:
            raise _OtherPart(f"has other queries between {done + 1} and {done + chunk}")
        done += chunk
        size += sum(map(len, lines))
    return done, size


def _query_of(line: bytes) -> str | None:
    """The query of a decision; None where the line isn't whole."""
    try:
        query = json.loads(line)["query"] if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
    return query if isinstance(query, str) else None


def _as_written(query: str) -> str:
    """The query as it comes back from JSON, where two lone surrogates may become one character."""
    return str(json.loads(json.dumps(query)))


def _start_over(part: BinaryIO, output: Path, maker: dict[str, object]) -> None:
    part.truncate(0)  # before the state is written, so that it never names another's decisions
    write_atomically(state_of(output), [(json.dumps(maker, sort_keys=True) + "\n").encode()])


def _discard(output: Path) -> None:
    part_of(output).unlink(missing_ok=True)
    state_of(output).unlink(missing_ok=True)
