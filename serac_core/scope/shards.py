"""A file of queries routed in shards, by as many processes as there are, with the bytes of one.

A shard begins at a multiple of the chunk in which queries are encoded: a vector depends in
rounding on the chunk it is encoded in, and on the number of threads, which all shards share.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serac_core.edits.atomic import UnwritableOutput, fsync
from serac_core.errors import SeracError
from serac_core.progress import Say
from serac_core.scope.batch_routing import CHUNK, RoutedFile, route_file
from serac_core.scope.queries import QueryFile


class ShardMissing(SeracError):
    """A shard is not where it was to be written."""


@dataclass(frozen=True)
class Shard:
    """A part of the queries, and where its decisions go.

    Attributes
    ----------
    first, after:
        The queries from `first`, counted from 0, up to but without `after`.
    """

    first: int
    after: int
    output: Path


def plan_shards(source: Path, output: Path, count: int, chunk: int = CHUNK) -> list[Shard]:
    """Split a file of queries into shards of about the same length, beside the output.

    Raises
    ------
    BadQueries
        A line is no query: names it, before anything is decided.
    """
    queries = sum(1 for _ in QueryFile(source))
    size = max(1, math.ceil(queries / max(1, count) / chunk)) * chunk
    folder = output.with_name(output.name + ".shards")
    return [
        Shard(first, min(first + size, queries), folder / f"{first:012d}.jsonl")
        for first in range(0, queries, size)
    ]


def route_shard(
    release: Path,
    source: Path,
    shard: Shard,
    *,
    variant: str = "fp32",
    provider: str = "cpu",
    threads: int | None = None,
    say: Say = lambda line: None,
) -> RoutedFile:
    """Decide on the queries of a shard; killed and called again, it goes on.

    Raises
    ------
    BadQueries, BusyOutput, UnwritableOutput
        And what loading the release raises.
    """
    return route_file(
        release,
        source,
        shard.output,
        variant=variant,
        provider=provider,
        threads=threads,
        span=(shard.first, shard.after),
        say=say,
    )


def join_shards(shards: Sequence[Shard], output: Path) -> None:
    """Put the shards' decisions together, in order, and remove them.

    What is at `output` stays until the new file is whole.

    Raises
    ------
    ShardMissing, UnwritableOutput
    """
    missing = [str(shard.output) for shard in shards if not shard.output.is_file()]
    if missing:
        raise ShardMissing(
            f"{missing[0]}: no such file, though its shard was routed",
            remedy="input, output and release must lie on storage that all workers share",
        )
    aside = output.with_name(output.name + ".joined")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as joined:
            for shard in shards:
                with shard.output.open("rb") as part:
                    shutil.copyfileobj(part, joined, 2**20)
        fsync(aside)
        aside.replace(output)
        fsync(output.parent)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UnwritableOutput(
            f"{output}: can't be written: {error.strerror or error}",
            remedy="free space or choose a place you may write to; the shards are kept",
        ) from error
    shutil.rmtree(output.with_name(output.name + ".shards"), ignore_errors=True)
