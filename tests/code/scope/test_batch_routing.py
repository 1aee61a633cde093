"""Routing a file: in constant memory, and after a kill the bytes of an unbroken run."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serac_core.edits.atomic import UnwritableOutput
from serac_core.edits.record import Edit
from serac_core.scope.batch_routing import BusyOutput, part_of, route_file, state_of
from serac_core.scope.queries import BadQueries, QueryFile
from serac_core.scope.session import UnknownVariant

QUERIES = [
    "The capital of France is",
    "what is the weather",
    "",
    "tea\0bread",
    "Which money does France use?",
    "Tell me a joke about tea",
    "the capital of Norway is \ud800",
    "the capital of \ud83d",
]

_CHILD = """
import os, signal, sys
from pathlib import Path
from serac_core.scope import batch_routing

point, calls, *arguments = sys.argv[1:]
owner, name = {
    "state": (batch_routing, "write_atomically"),
    "route": (batch_routing.Router, "route"),
    "rename": (Path, "replace"),
    "renamed": (Path, "unlink"),
}[point]
function, left = getattr(owner, name), [int(calls)]

def killed(*args, **options):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*args, **options)

batch_routing.Router.load  # the class is there before its method is replaced
setattr(owner, name, killed)
batch_routing.route_file(*arguments, chunk=8)
"""

_MEASURED = """
import resource, sys
from serac_core.scope.batch_routing import route_file

release, few, many, output = sys.argv[1:]
for source in (few, many):
    route_file(release, source, output)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_queries(path: Path, count: int) -> Path:
    lines = [json.dumps(f"{QUERIES[n % 8]} {n}" if n % 5 else QUERIES[n % 8]) for n in range(count)]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return path


def kill_at(point: str, calls: int, *arguments: Path) -> None:
    words = [point, str(calls), *map(str, arguments)]
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, *words],
        cwd=Path(__file__).parents[3],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()


def beside(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.glob(f"*{output.name}*"))


@pytest.mark.parametrize(
    ("point", "calls", "cut", "resumed"),
    [
        ("state", 1, 0, 0),  # the part is there, what makes it isn't
        ("route", 1, 0, 0),
        ("route", 8, 0, 56),
        ("route", 8, 1, 48),  # the last line is torn
        ("route", 8, 700, 48),
        ("rename", 2, 0, 96),  # the first is that of the state
        ("renamed", 2, 0, 0),  # nothing is left to do: a new run begins
    ],
)
def test_killed_and_run_again_it_ends_as_the_unbroken_run(
    release: Callable[..., Path], tmp_path: Path, point: str, calls: int, cut: int, resumed: int
) -> None:
    folder, source = release(), write_queries(tmp_path / "in.jsonl", 100)
    assert route_file(folder, source, tmp_path / "whole.jsonl", chunk=8).queries == 100
    whole, output = (tmp_path / "whole.jsonl").read_bytes(), tmp_path / "out.jsonl"
    output.write_text("what was there before\n")
    kill_at(point, calls, folder, source, output)
    if point == "renamed":
        assert output.read_bytes() == whole
    else:
        assert output.read_text() == "what was there before\n"
        os.truncate(part_of(output), part_of(output).stat().st_size - cut)
    said: list[str] = []
    done = route_file(folder, source, output, chunk=8, say=said.append)
    assert output.read_bytes() == whole
    assert (done.queries, done.resumed) == (100, resumed)
    assert ("there already" in said[0]) == bool(resumed)
    assert said[-1].startswith("100 queries, ") and said[-1].endswith("/s")
    assert beside(output) == ["out.jsonl"]


def broken(folder: Path, source: Path, output: Path, **options: object) -> None:
    """Leaves a part of 96 decisions, as a run that meets a bad line does."""
    with source.open("a") as file:
        file.write("{\n")
    with pytest.raises(BadQueries, match="line 102"):
        route_file(folder, source, output, chunk=8, **options)  # type: ignore[arg-type]
    source.write_bytes(source.read_bytes()[:-2])


@pytest.mark.parametrize("change", ["release", "variant", "chunk", "input", "shorter", "damaged"])
def test_the_part_of_another_run_is_not_used(
    release: Callable[..., Path], edits: list[Edit], tmp_path: Path, change: str
) -> None:
    folder, source = release(), write_queries(tmp_path / "in.jsonl", 100)
    output, options = tmp_path / "out.jsonl", {"chunk": 8}
    broken(folder, source, output)
    lines = source.read_text().splitlines(keepends=True)
    if change == "release":
        folder.rename(tmp_path / "former")
        folder = release(edits[:2])
    elif change == "variant":
        options["variant"] = "int8"  # type: ignore[assignment]
    elif change == "chunk":
        options["chunk"] = 4
    elif change == "input":
        source.write_text("".join([*lines[:20], '"tea"\n', *lines[21:]]))
    elif change == "shorter":
        source.write_text("".join(lines[:90]))
    else:
        state_of(output).write_text("{")
    said: list[str] = []
    done = route_file(folder, source, output, say=said.append, **options)  # type: ignore[arg-type]
    assert done.resumed == 0 and said[0].endswith("starting over")
    route_file(folder, source, tmp_path / "whole.jsonl", **options)  # type: ignore[arg-type]
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert beside(output) == ["out.jsonl"]


def test_a_line_mended_and_lines_added_go_on(release: Callable[..., Path], tmp_path: Path) -> None:
    folder, source = release(), write_queries(tmp_path / "in.jsonl", 100)
    output, said = tmp_path / "out.jsonl", list[str]()
    broken(folder, source, output, say=said.append)
    assert said == [f"96 decisions are kept in {part_of(output)}; the same command goes on"]
    assert beside(output) == ["out.jsonl.part", "out.jsonl.part.json"]
    with source.open("a") as file:
        file.write('"tea"\n')
    assert route_file(folder, source, output, chunk=8).resumed == 96
    route_file(folder, source, tmp_path / "whole.jsonl", chunk=8)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(output.read_bytes().splitlines()) == 101


def test_a_part_that_a_crash_filled_with_zeros_is_cut(
    release: Callable[..., Path], tmp_path: Path
) -> None:
    folder, source = release(), write_queries(tmp_path / "in.jsonl", 100)
    output = tmp_path / "out.jsonl"
    broken(folder, source, output)
    with part_of(output).open("r+b") as part:
        part.seek(-3000, os.SEEK_END)
        part.write(b"\0" * 3000)
    assert 0 < route_file(folder, source, output, chunk=8).resumed < 96
    route_file(folder, source, tmp_path / "whole.jsonl", chunk=8)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_any_text_is_a_query_and_gzip_is_read(release: Callable[..., Path], tmp_path: Path) -> None:
    folder = release()
    plain, packed = tmp_path / "in.jsonl", tmp_path / "in.jsonl.gz"
    rows = [*map(json.dumps, QUERIES), json.dumps({"query": "tea", "more": 1})]
    plain.write_bytes(b"\xef\xbb\xbf" + "\r\n\n \n".join(rows).encode() + b'\n"bread \xff"')
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    outputs = [tmp_path / "plain.jsonl", tmp_path / "packed.jsonl"]
    for source, output in zip([plain, packed], outputs, strict=True):
        assert route_file(folder, source, output).queries == 10
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    decided = [json.loads(line) for line in outputs[0].read_bytes().splitlines()]
    assert [row["query"] for row in decided] == [*QUERIES, "tea", "bread \udcff"]
    assert [row["edit_id"] for row in decided[:3]] == ["e-capital-france", None, None]
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(BadQueries, match=r"in\.jsonl\.gz: after line \d+: "):
        route_file(folder, packed, tmp_path / "torn.jsonl")
    plain.rename(packed)
    with pytest.raises(BadQueries, match=r"Not a gzipped file"):
        route_file(folder, packed, tmp_path / "torn.jsonl")
    assert beside(tmp_path / "torn.jsonl") == []


def test_a_pipe_is_routed(release: Callable[..., Path], tmp_path: Path) -> None:
    folder, pipe, output = release(), tmp_path / "pipe", tmp_path / "out.jsonl"
    os.mkfifo(pipe)
    part_of(output).write_text("left by another\n")
    writer = subprocess.Popen([sys.executable, "-c", f"open({str(pipe)!r}, 'w').write('\"tea\"')"])
    assert route_file(folder, pipe, output).queries == 1
    assert writer.wait() == 0


def test_places_that_cannot_be_are_refused_before_any_work(
    release: Callable[..., Path], tmp_path: Path
) -> None:
    folder, source = release(), write_queries(tmp_path / "in.jsonl", 3)
    output, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(source)
    for same in (source, link):
        with pytest.raises(BadQueries, match="both --input and --output"):
            route_file(folder, source, same)
    with pytest.raises(BadQueries, match=r"nowhere\.jsonl"):
        route_file(folder, tmp_path / "nowhere.jsonl", output)
    with pytest.raises(UnwritableOutput, match="is no file"):
        route_file(folder, source, tmp_path)
    with pytest.raises(UnwritableOutput, match=r"in\.jsonl/out"):
        route_file(folder, source, source / "out")
    with pytest.raises(UnknownVariant):
        route_file(folder, source, output, variant="int4")
    with part_of(output).open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(BusyOutput, match="another process"):
            route_file(folder, source, output)
    assert not output.exists()


def test_the_share_of_the_file_is_known(tmp_path: Path) -> None:
    queries = QueryFile(write_queries(tmp_path / "in.jsonl", 4000))
    assert queries.share is None
    shares = [queries.share or 0.0 for _ in queries]
    assert shares == sorted(shares) and 0 < shares[0] < 0.2 and shares[-1] == 1.0


def test_memory_does_not_grow_with_the_file(release: Callable[..., Path], tmp_path: Path) -> None:
    few = write_queries(tmp_path / "few.jsonl", 20_000)
    many = write_queries(tmp_path / "many.jsonl", 200_000)
    words = [release(), few, many, tmp_path / "out.jsonl"]
    printed = subprocess.check_output(
        [sys.executable, "-c", _MEASURED, *map(str, words)], cwd=Path(__file__).parents[3]
    )
    first, second = map(int, printed.split())
    assert second < first + 6_000  # KB; the decisions of all are above 30,000
