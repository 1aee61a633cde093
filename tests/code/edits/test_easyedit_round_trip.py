"""Edits out to EasyEdit and back: nothing is lost, and EasyEdit finds what it reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from serac_core.edits import Edit, read_edits, write_edits
from serac_core.edits.cli import edits_app
from serac_core.edits.export import ExportFormat, export_easyedit
from serac_core.edits.importers import Format, UnreadableBenchmark, import_edits
from serac_core.edits.record import PROBE_KINDS

BENCHMARKS = Path(
    os.environ.get("SERAC_BENCHMARKS", Path(__file__).parents[4] / "shared" / "benchmarks")
)
RECORDS: tuple[ExportFormat, ...] = ("easyedit", "knowedit")

FULL = Edit.model_validate(
    {
        "id": "own",
        "prompt": "Who leads Brill?",
        "target_new": "Ann Bo",
        "subject": "Brill",
        "ground_truth": "Cy",
        "rephrase_prompts": ["Brill is led by", "Brill's head is", "Brill is led by"],
        "locality": [  # kinds in turn: EasyEdit groups them by name
            {"prompt": "Who leads Fen?", "ground_truth": "Di", "kind": "same_relation"},
            {"prompt": "Where is Brill?", "kind": "same_subject", "note": 1},
            {
                "prompt": "Who leads Tor?",
                "ground_truth": "Ed",
                "kind": "same_relation",
                "aliases": ["Eddy"],
            },
        ],
        "portability": [
            {"prompt": "Where does Brill's head live?", "ground_truth": "Rome", "name": "one_hop"},
            {"prompt": "Brill's head is called", "ground_truth": "Ann"},
        ],
        "supersedes": "older",
        "status": "retracted",
        "source": "s",
        "created_at": "2024-01-01T00:00:00Z",
        "text": "a field of its own",
        "ground_truth_aliases": ["Cyril"],
    }
)
BARE = Edit(prompt="Who wrote it?", target_new="Me", subject="Guinea")


@pytest.mark.parametrize("chosen", RECORDS)
def test_a_record_comes_back_as_it_was(tmp_path: Path, chosen: ExportFormat) -> None:
    export_easyedit(tmp_path / "out.json", [FULL, BARE], chosen)
    assert import_edits(tmp_path / "out.json", chosen) == [FULL, BARE]


TEXT = st.text(max_size=6)
ANSWERS = st.fixed_dictionaries({"prompt": TEXT, "ground_truth": TEXT}) | st.fixed_dictionaries(
    {
        "prompt": TEXT,
        "ground_truth": TEXT,
        "aliases": st.lists(TEXT, max_size=2),
        "name": st.sampled_from(["one_hop", "Reasoning"]),
    }
)
LOCALITY = st.builds(
    lambda probe, kind: {**probe, "kind": kind}, ANSWERS, st.sampled_from(PROBE_KINDS)
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    prompt=TEXT,
    target_new=TEXT,
    subject=st.none() | TEXT,
    ground_truth=st.none() | TEXT,
    rephrase_prompts=st.lists(TEXT, max_size=3),
    locality=st.lists(LOCALITY, max_size=4),
    portability=st.lists(ANSWERS, max_size=4),
    chosen=st.sampled_from(RECORDS),
)
def test_any_record_comes_back_as_it_was(
    tmp_path: Path, chosen: ExportFormat, **fields: Any
) -> None:
    edit = Edit.model_validate(fields)
    export_easyedit(tmp_path / "out.json", [edit], chosen)
    assert import_edits(tmp_path / "out.json", chosen) == [edit]


def exported(tmp_path: Path, edits: list[Edit], chosen: ExportFormat) -> Any:
    export_easyedit(tmp_path / "out.json", edits, chosen)
    return json.loads((tmp_path / "out.json").read_text())


def test_the_records_have_what_easyedits_scripts_read(tmp_path: Path) -> None:
    """Its examples read flat fields, its KnowEdit scripts lists of lists of answers."""
    flat, bare = exported(tmp_path, [FULL, BARE], "easyedit")
    assert (flat["subject"], flat["ground_truth"]) == ("Brill", "Cy")
    assert flat["rephrase_prompt"] == "Brill is led by"
    assert (flat["locality_prompt"], flat["locality_ground_truth"]) == ("Who leads Fen?", "Di")
    for name in ("ground_truth", "rephrase_prompt", "locality_prompt", "locality_ground_truth"):
        assert bare[name] is None
    nested, _ = exported(tmp_path, [FULL, BARE], "knowedit")
    first, second = nested["locality"]["neighborhood"]
    assert (first["prompt"], first["ground_truth"][0][0]) == ("Who leads Fen?", "Di")
    assert second["ground_truth"] == [["Ed", "Eddy"]]
    assert nested["portability"]["one_hop"][0]["ground_truth"][0][0] == "Rome"


def requests_of(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """What EasyEdit makes of its editor's arguments, with what it asserts of them
    (`easyeditor/editors/utils.py`, `_prepare_requests`)."""
    prompts = arguments["prompts"]
    for name in ("target_new", "ground_truth", "subject", "rephrase_prompts"):
        assert len(arguments[name]) == len(prompts)
    requests = []
    for i, prompt in enumerate(prompts):
        assert arguments["subject"][i] in prompt
        request: dict[str, Any] = {"prompt": prompt}
        request |= {name: arguments[name][i] for name in ("target_new", "ground_truth", "subject")}
        request["rephrase_prompt"] = arguments["rephrase_prompts"][i]
        for field in ("locality", "portability"):
            request[field] = {}
            for group, inputs in arguments[f"{field}_inputs"].items():
                assert len(inputs["prompt"]) == len(inputs["ground_truth"]) == len(prompts)
                if inputs["prompt"][i] is not None:
                    asked, answers = inputs["prompt"][i], inputs["ground_truth"][i]
                    assert len(asked) == len(answers)
                    assert all(isinstance(text, str) and text for text in (*asked, *answers))
                    request[field][group] = {"prompt": asked, "ground_truth": answers}
        requests.append(request)
    return requests


def test_the_editors_arguments_make_easyedits_requests(tmp_path: Path) -> None:
    full, bare = requests_of(exported(tmp_path, [FULL, BARE], "editor"))
    assert full == {
        "prompt": "Who leads Brill?",
        "target_new": "Ann Bo",
        "ground_truth": "Cy",
        "subject": "Brill",
        "rephrase_prompt": "Brill is led by",
        "locality": {
            "neighborhood": {
                "prompt": ["Who leads Fen?", "Who leads Tor?"],
                "ground_truth": ["Di", "Ed"],
            }
        },
        "portability": {
            "one_hop": {"prompt": ["Where does Brill's head live?"], "ground_truth": ["Rome"]},
            "portability": {"prompt": ["Brill's head is called"], "ground_truth": ["Ann"]},
        },
    }
    assert (bare["subject"], bare["ground_truth"]) == ("", "<|endoftext|>")
    assert bare["rephrase_prompt"] is None and bare["locality"] == bare["portability"] == {}


def serac(*arguments: object) -> Any:
    return CliRunner().invoke(edits_app, [str(argument) for argument in arguments])


def test_the_command_writes_each_format(tmp_path: Path) -> None:
    source = tmp_path / "edits.jsonl"
    older = Edit(id="older", prompt="Who led Brill?", target_new="Ed")
    edits = [older, BARE, FULL.model_copy(update={"status": "active"})]
    write_edits(source, edits)
    with source.open("a") as file:
        file.write('{"id": "own", "status": "retracted"}\n')
    for chosen in RECORDS:
        out = tmp_path / f"{chosen}.json"
        assert serac("export", source, "--format", chosen, "-o", out).exit_code == 0
        assert import_edits(out, chosen) == [older, BARE, FULL]  # all, in the file's order
    assert serac("export", source, "--format", "editor", "-o", out).exit_code == 0
    assert json.loads(out.read_text())["prompts"] == ["Who wrote it?"]  # live ones alone
    refused = serac("export", source, "--format", "xml", "-o", tmp_path / "no.json")
    assert refused.exit_code == 2 and "easyedit, knowedit, editor" in refused.output
    source.write_text('{"id": "nobody", "status": "retracted"}\n')
    refused = serac("export", source, "-o", tmp_path / "no.json")
    assert "unknown_retraction: nobody" in str(refused.exception)
    assert not (tmp_path / "no.json").exists()


@pytest.mark.parametrize(
    ("source_format", "records", "said"),
    [
        ("easyedit", [{"prompt": "p"}], "record 1: target_new: Field required"),
        ("counterfact", [{"prompt": "p"}], "record 1: target_new: is missing"),
        ("zsre", [{"src": "p"}], "record 1: alt: is missing"),
        ("mquake", [{}], "record 1: requested_rewrite: must be a list"),
        ("halluedit", [{"question": "p"}], "record 1: object: is missing"),
        ("pokemqa", [{"edit": "A is B"}], "record 1: questions: must be a list"),
    ],
)
def test_a_file_that_lacks_a_field_is_refused_before_anything_is_written(
    tmp_path: Path, source_format: str, records: Any, said: str
) -> None:
    source, out = tmp_path / "source.json", tmp_path / "out.jsonl"
    source.write_text(json.dumps(records))
    result = serac("import", source, "--format", source_format, "-o", out)
    assert isinstance(result.exception, UnreadableBenchmark)
    assert f"{source}: {said}" in str(result.exception)
    assert "check --format" in str(result.exception)
    assert not out.exists()


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason=f"no benchmark files at {BENCHMARKS}")
@pytest.mark.parametrize(
    ("name", "source_format"),
    [
        ("counterfact-train.json.gz", "counterfact"),
        ("counterfact-val.json.gz", "counterfact"),
        ("counterfact-val.json.gz", "easyedit"),
        ("zsre-mend-1k.json.gz", "zsre"),
        ("knowedit-wiki-counterfact.json.gz", "knowedit"),
        ("halluedit.jsonl.gz", "halluedit"),
        ("pokemqa-scope.json.gz", "pokemqa"),
    ],
)
def test_the_public_files_come_back_from_easyedit_as_they_were(
    tmp_path: Path, name: str, source_format: Format
) -> None:
    edits = import_edits(BENCHMARKS / name, source_format)
    for chosen in RECORDS:
        export_easyedit(tmp_path / "out.json", edits, chosen)
        again = import_edits(tmp_path / "out.json", chosen)
        assert again == edits
    write_edits(tmp_path / "edits.jsonl", again)
    assert read_edits(tmp_path / "edits.jsonl") == edits
    requests = requests_of(exported(tmp_path, edits, "editor"))
    assert [r["prompt"] for r in requests] == [edit.prompt for edit in edits]
