"""`serac route`, `serac explain`, `serac memory build|add|retract` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_encoder import graph
from typer import Typer
from typer.testing import CliRunner

from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit
from serac_core.scope import cli
from serac_core.scope.cli import BadQueries
from serac_core.scope.memory import EditMemory
from serac_core.scope.session import OnnxEncoder

app = Typer(pretty_exceptions_enable=False)
app.add_typer(cli.memory_app, name="memory")
for verb in (cli.route, cli.explain):
    app.command()(verb)


def serac(*words: object):
    found = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found


def test_route_prints_where_each_query_goes(release: Callable[..., Path]) -> None:
    folder = release()
    lines = serac("route", "--release", folder, "The capital of France is", "tea").stdout
    first, second = lines.splitlines()
    assert first.startswith("edit e-capital-france  score 1.0000  threshold 0.8000")
    assert second.startswith("base model")
    rows = serac("route", "--release", folder, "--json", "--variant", "int8", "tea").stdout
    assert json.loads(rows).keys() >= {"query", "in_scope", "edit_id", "score", "threshold"}


def test_a_file_is_routed_line_by_line(release, tmp_path):
    folder = release()
    source, result = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    queries = ["The capital of France is", "weather", "", "The capital of Norway is", "x"] * 2
    lines = [json.dumps({"query": query} if n % 2 else query) for n, query in enumerate(queries)]
    source.write_bytes("\n\n".join(lines).encode() + b'\n"The capital of France is \xff"\n')
    done = serac("route", "--release", folder, "--input", source, "--output", result)
    assert done.stdout == ""
    assert "11 queries" in done.stderr and "/s" in done.stderr
    rows = [json.loads(line) for line in result.read_text().splitlines()]
    assert [row["query"] for row in rows[:10]] == queries
    assert [row["edit_id"] for row in rows[:5]] == [
        "e-capital-france", None, None, "e-capital-norway", None,
    ]  # fmt: skip
    assert rows[10]["edit_id"] == "e-capital-france"
    printed = serac("route", "--release", folder, "--input", source).stdout
    assert [json.loads(line) for line in printed.splitlines()] == rows


@pytest.mark.parametrize("line", ["{", '{"text": "tea"}', "17", '{"query": null}'])
def test_a_bad_line_is_named_and_nothing_is_written(release, tmp_path, line):
    source, result = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"tea"\n' * 16 + line + "\n")
    with pytest.raises(BadQueries, match=r"in\.jsonl: line 17"):
        serac("route", "--release", release(), "--input", source, "--output", result)
    assert list(tmp_path.glob("*out.jsonl*")) == []


def test_queries_come_from_one_place(release, tmp_path):
    folder = release()
    with pytest.raises(BadQueries, match="no query"):
        serac("route", "--release", folder)
    with pytest.raises(BadQueries, match="both"):
        serac("route", "--release", folder, "tea", "--input", tmp_path / "in.jsonl")
    with pytest.raises(BadQueries, match=r"nowhere\.jsonl"):
        serac("route", "--release", folder, "--input", tmp_path / "nowhere.jsonl")


def test_explain_shows_edits_scores_and_reason(release):
    folder = release()
    text = serac("explain", "--release", folder, "which money does France use").stdout
    reason, best, *_ = text.splitlines()
    assert reason.startswith("in scope of e-currency-france")
    assert "Which money does France use?" in best
    row = json.loads(serac("explain", "--release", folder, "--json", "--k", 1, "France").stdout)
    assert row["in_scope"] is False
    assert row["margin"] == pytest.approx(row["score"] - row["threshold"])
    assert len(row["candidates"]) == 1


def held_by(folder, encoder):
    """The edits of a memory in order, and what their keys are like, to the last bit."""
    memory = EditMemory.load(folder, encoder.digest)
    places, scores = memory.search(encoder.encode(["money"]), len(memory))
    found = zip(places[0].tolist(), scores[0].tolist(), strict=True)
    return [memory.entry(p) for p in memory.places.tolist()], list(found)


def test_memory_build_encodes_every_variant_and_then_only_what_changed(
    make_encoder, edits, tmp_path
):
    graphs = {"encoder.onnx": graph(), "encoder_int8.onnx": graph(seed=4)}
    folder, live, out = make_encoder("onnx", graphs), tmp_path / "live.jsonl", tmp_path / "memory"

    def build(cache: str = "cache") -> dict[str, int]:
        words = ("--encoder", folder, "--edits", live, "--out", out, "--cache-dir")
        found = serac("memory", "build", *words, tmp_path / cache, "--json")
        return json.loads(found.stdout)["encoded"]

    write_edits(live, edits)
    assert build() == {"fp32": 4, "int8": 4}
    for variant in ("fp32", "int8"):
        digest = OnnxEncoder.load(folder, variant).digest
        assert len(EditMemory.load(out, digest)) == len(edits)
    assert build() == {"fp32": 0, "int8": 0}
    write_edits(live, [*edits, Edit(prompt="Bread is", subject="Bread", target_new="tea")])
    assert build() == {"fp32": 1, "int8": 1}
    little = [held_by(out, OnnxEncoder.load(folder, variant)) for variant in ("fp32", "int8")]
    assert build("another cache") == {"fp32": 5, "int8": 5}
    assert little == [held_by(out, OnnxEncoder.load(folder, name)) for name in ("fp32", "int8")]
    for kept in (tmp_path / "cache").rglob("keys-*"):
        kept.write_bytes(b"damaged")
    assert build() == {"fp32": 5, "int8": 5}


def test_memory_add_and_retract_change_a_built_memory(make_encoder, edits, tmp_path):
    graphs = {"encoder.onnx": graph(), "encoder_int8.onnx": graph(seed=4)}
    folder, live, out = make_encoder("onnx", graphs), tmp_path / "live.jsonl", tmp_path / "memory"
    write_edits(live, edits)
    serac("memory", "build", "--encoder", folder, "--edits", live, "--out", out,
          "--cache-dir", tmp_path / "cache")  # fmt: skip
    write_edits(live, [Edit(id="b", prompt="Bread is", subject="Bread", target_new="tea")])
    words = ("memory", "add", "--memory", out, "--encoder", folder, "--edits", live, "--json")
    assert json.loads(serac(*words).stdout) == {
        "added": 1, "removed": 0, "encoded": {"fp32": 1, "int8": 1}, "edits": 6,
    }  # fmt: skip
    found = serac("memory", "retract", "--memory", out, "--id", "b", "--id", "e-joke").stdout
    assert found.startswith("0 added, 2 removed; 4 edits in ")
    for variant in ("fp32", "int8"):
        memory = EditMemory.load(out, OnnxEncoder.load(folder, variant).digest)
        ids = [memory.entry(place).id for place in memory.places.tolist()]
        assert ids == [edit.id for edit in edits[:4]]
