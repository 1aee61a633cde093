"""The edited model: who answers which query."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from serac_core.base import LanguageModel
from serac_core.counterfactual import CounterfactualModel
from serac_core.counterfactual import cli as counterfactual_cli
from serac_core.editing import EditedModel, StaleMemory, UnknownBaseModel, base_model
from serac_core.edits import Edit
from serac_core.scope.router import Decision

Tiny = Callable[[str], Path]


class BySubject:
    """Routes a query to the edit whose subject it names."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._edits = edits

    def route(self, queries: Sequence[str]) -> list[Decision]:
        found = [
            next((e.id for e in self._edits if (e.subject or "-") in q), None) for q in queries
        ]
        return [
            Decision(q, edit is not None, edit, 1.0 if edit else -1.0, 0.5, edit)
            for q, edit in zip(queries, found, strict=True)
        ]


@pytest.fixture(params=[("gpt2", "gpt2"), ("t5", "llama"), ("lfm2", "bart")])
def edited(request: pytest.FixtureRequest, tiny: Tiny, edits: list[Edit]) -> EditedModel:
    """Base and counterfactual of one family, and of two with different tokenizers."""
    base, counterfactual = request.param
    return EditedModel(
        LanguageModel.load(tiny(base)),
        CounterfactualModel.load(tiny(counterfactual)),
        BySubject(edits),
        edits,
    )


QUERIES = [
    "Who wrote Carrie?",
    "What is the capital of Peru?",
    "The currency of Spain is the",
    "Which city is the capital of Chile?",
    "",
]


def test_out_of_scope_answers_are_the_bases_own_whatever_else_is_asked(edited: EditedModel) -> None:
    answers = edited.answer(QUERIES, max_new_tokens=8)
    alone = [edited.base.generate([query], 8)[0] for query in QUERIES]
    assert [answer.query for answer in answers] == QUERIES
    for i in (0, 2, 4):
        assert not answers[i].decision.in_scope
        assert answers[i].edited_answer == answers[i].base_answer == alone[i]


def test_in_scope_answers_are_read_from_the_matched_edit(
    edited: EditedModel, edits: list[Edit]
) -> None:
    answers = edited.answer(QUERIES, max_new_tokens=8)
    for i, edit in ((1, edits[0]), (3, edits[1])):
        expected = edited.counterfactual.answer([edit], [QUERIES[i]], 8)[0]
        assert answers[i].decision.edit_id == edit.id
        assert answers[i].edited_answer == expected
        assert answers[i].base_answer is None


def test_no_model_runs_on_a_query_that_is_not_its_own(
    edited: EditedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EasyEdit runs base and counterfactual model on every query, even on a clear miss."""
    asked: dict[str, list[str]] = {"base": [], "counterfactual": []}
    for name, model in (
        ("base", edited.base),
        ("counterfactual", edited.counterfactual.language_model),
    ):
        real = model.generate

        def generate(
            prompts: Sequence[str],
            *args: int,
            name: str = name,
            real: Callable[..., list[str]] = real,
        ):
            asked[name] += prompts
            return real(prompts, *args)

        monkeypatch.setattr(model, "generate", generate)
    edited.answer(QUERIES, max_new_tokens=2)
    assert asked["base"] == [QUERIES[0], QUERIES[2], QUERIES[4]]
    assert len(asked["counterfactual"]) == 2
    shown = edited.answer(QUERIES, with_base=True, max_new_tokens=2)
    assert asked["base"][3:] == QUERIES
    assert all(answer.base_answer is not None for answer in shown)


def test_a_memory_of_other_edits_is_refused(tiny: Tiny, edits: list[Edit]) -> None:
    model = LanguageModel.load(tiny("gpt2"))
    edited = EditedModel(model, CounterfactualModel(model), BySubject(edits), edits[1:])
    with pytest.raises(StaleMemory, match=edits[0].id):
        edited.answer(["What is the capital of Peru?"])


def test_thebase_model_is_the_manifests(tmp_path: Path) -> None:
    with pytest.raises(UnknownBaseModel):
        base_model(tmp_path)
    (tmp_path / "manifest.json").write_text('{"base_model": "data/demo_model"}')
    assert base_model(tmp_path) == "data/demo_model"


def test_serac_answer(
    edited: EditedModel, edits: list[Edit], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(EditedModel, "load", lambda *_, **__: edited)
    app = typer.Typer()
    app.command()(counterfactual_cli.answer)
    arguments = ["--release", str(tmp_path), "--max-new-tokens", "4", *QUERIES[:2]]
    plain = CliRunner().invoke(app, arguments)
    assert plain.exit_code == 0 and f"edit {edits[0].id} (score 1.0000" in plain.stdout
    result = CliRunner().invoke(app, [*arguments, "--json"])
    first, second = json.loads(result.stdout)
    assert first["edited_answer"] == first["base_answer"] and not first["in_scope"]
    assert second["edit_id"] == edits[0].id and second["threshold"] == 0.5
