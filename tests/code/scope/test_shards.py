"""Routing in shards: the bytes of one process, whatever the number of shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serac_core.scope.batch_routing import CHUNK, route_file
from serac_core.scope.queries import BadQueries
from serac_core.scope.shards import ShardMissing, join_shards, plan_shards, route_shard


def write_queries(path: Path, count: int) -> Path:
    texts = ("The capital of France is", "tea", "which money does Norway use", "", "x" * 300)
    lines = (json.dumps(f"{texts[n % len(texts)]} {n % 13}") + "\n\n" for n in range(count))
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("count", [1, 3, 100])
def test_shards_give_the_bytes_of_one_process(
    tmp_path: Path, release: Callable[..., Path], count: int
) -> None:
    served, source = release(), write_queries(tmp_path / "queries.jsonl", 5 * CHUNK + 7)
    route_file(served, source, tmp_path / "one.jsonl")
    output = tmp_path / "shards.jsonl"
    shards = plan_shards(source, output, count)
    for shard in reversed(shards):
        route_shard(served, source, shard)
    join_shards(shards, output)
    assert output.read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if "shards" in path.name) == [
        "shards.jsonl"
    ]


def test_missing_shard_leaves_the_old_output(tmp_path: Path, release: Callable[..., Path]) -> None:
    source = write_queries(tmp_path / "queries.jsonl", 2 * CHUNK)
    output = tmp_path / "out.jsonl"
    output.write_text("old\n")
    shards = plan_shards(source, output, 2)
    route_shard(release(), source, shards[0])
    with pytest.raises(ShardMissing, match="storage that all workers share"):
        join_shards(shards, output)
    assert output.read_text() == "old\n"
    assert shards[0].output.is_file()


def test_a_line_that_is_no_query_is_named_before_anything_is_decided(tmp_path: Path) -> None:
    source = write_queries(tmp_path / "queries.jsonl", 4)
    source.write_text(source.read_text() + "7\n")
    with pytest.raises(BadQueries, match="line 9 has no query"):
        plan_shards(source, tmp_path / "out.jsonl", 2)


@given(queries=st.integers(0, 3000), count=st.integers(1, 40))
def test_shards_cover_every_query_once(
    tmp_path_factory: pytest.TempPathFactory, queries: int, count: int
) -> None:
    source = tmp_path_factory.mktemp("plan") / "queries.jsonl"
    source.write_text('"q"\n' * queries)
    shards = plan_shards(source, Path("out.jsonl"), count)
    numbers = [n for shard in shards for n in range(shard.first, shard.after)]
    assert numbers == list(range(queries))
    assert len(shards) <= count
    assert all(shard.first % CHUNK == 0 for shard in shards)
