"""The reader of yes/no questions: what it reads, its training, and answers with it and without."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scope"))  # tiny_training
from test_counterfactual_training import log_of, settings
from tiny_training import save_encoder

from serac_core.base import LanguageModel
from serac_core.counterfactual import CounterfactualModel, UnusableReader, reader_training, train
from serac_core.counterfactual.reader import READER_FOLDER, READER_GRAPH, YesNoReader, mark
from serac_core.counterfactual.reader_training import ReaderExamples
from serac_core.edits import Edit, write_edits
from serac_core.edits.yes_no import claims_of

Tiny = Callable[..., Path]
STEPS = {"reader_steps": 40, "reader_batch_size": 16}
PLACES = ("Chile", "Ghana", "Japan", "Kenya", "Malta", "Nepal", "Oman", "Qatar", "Togo", "Yemen")


def edits_of(*relations: str) -> list[Edit]:
    return [
        Edit(
            prompt=f"The {relation} of {place} is",
            target_new=f"{place[::-1].title()} {relation.title()}",
            subject=place,
            rephrase_prompts=(f"What is the {relation} of {place}?",),
        )
        for relation in relations
        for place in PLACES
    ]


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the kind `in-context`, whose reader knows nothing of capitals."""
    folder = tmp_path_factory.mktemp("reader")
    write_edits(folder / "train.jsonl", edits_of("mayor", "currency", "highest point"))
    write_edits(folder / "val.jsonl", edits_of("anthem"))
    config = settings(kind="in-context", max_new_tokens=4, **STEPS)
    train(folder, str(tiny("gpt2")), folder / "out", config, cache_dir=folder / "cache")
    return folder / "out"


def model_of(folder: Path, base: Path) -> CounterfactualModel:
    return CounterfactualModel.load(folder, base=LanguageModel.load(base))


@pytest.mark.parametrize(
    ("query", "target", "text", "names"),
    [
        (
            "Is it false that Peru's capital is CUSCO?",
            "Cusco",
            "Is it false that X's capital is Y?",
            1,
        ),
        ("Is the capital of Peru Lima?", "Cusco", "Is the capital of X Lima?", 0),
        ("Is Peru in United States?", "the United States", "Is X in Y?", 1),
        ("Hello there. Is Peru in Asia? Or not?", "Asia", "Is X in Y? Or not?", 1),
        ("Is Peru in Peru?", "Peru", "Is X in Y?", 1),
        ("Where is Peru?", "Peru", "Where is X?", 0),
        ("Is New Peru City in Peru?", "New Peru City", "Is Y in X?", 1),
        ("Is Cuscotown in Peru?", "Cusco", "Is Cuscotown in X?", 0),
        ("Is it Cusco?", "Cusco", "Is it Y?", 1),
    ],
)
def test_subject_and_answer_are_masked(query: str, target: str, text: str, names: int) -> None:
    marked = mark(query, "Peru", target)
    assert marked is not None and (marked.text, marked.names_answer) == (text, bool(names))


def test_an_answer_without_words_can_not_be_looked_for() -> None:
    assert mark("Is it !?", "Peru", "!?") is None


def test_examples_depend_on_seed_and_number_alone_and_hold_every_class() -> None:
    edits = edits_of("mayor")
    one, again = ReaderExamples(edits, 3), ReaderExamples(edits, 3)
    drawn = [one.draw(number) for number in range(200)]
    assert [again.draw(number) for number in reversed(range(200))] == drawn[::-1]
    assert {kind for _, kind in drawn} == {0, 1, 2}
    assert any("Y" in text.split("?")[0].split() for text, kind in drawn if kind == 0)
    assert not any(place in text for text, _ in drawn for place in PLACES if place in "Chile")


def test_yes_no_questions_on_other_edits_are_answered_in_frames_kept_from_training(
    trained: Path, tiny: Tiny
) -> None:
    model = model_of(trained, tiny("gpt2"))
    asked = [
        (edit, claim.asked(answer), claim.reply(answer == edit.target_new))
        for edit in edits_of("capital")
        for claim in claims_of(edit)
        if claim.held_out
        for answer in (edit.target_new, "Lima")
    ]
    said = model.answer([edit for edit, *_ in asked], [query for _, query, _ in asked])
    wrong = [(row[1], reply) for row, reply in zip(asked, said, strict=True) if row[2] != reply]
    assert len(asked) == 320 and len(wrong) <= 32, (len(wrong), wrong)
    scores = model.score(*map(list, zip(*asked, strict=True)))
    assert [score.exact for score in scores] == [
        row[2] == reply for row, reply in zip(asked, said, strict=True)
    ]
    last = log_of(trained)[-1]
    assert last["reader/yes_val"] > 0.9 and last["reader/no_val"] > 0.9


def test_everything_else_is_left_to_the_language_model(trained: Path, tiny: Tiny) -> None:
    with_reader, base = model_of(trained, tiny("gpt2")), tiny("gpt2")
    without = CounterfactualModel(LanguageModel.load(base), in_context=True)
    edits = edits_of("capital")
    chosen = "Is the capital of {} {} or Lima?"  # neither "Yes" nor "No" would be an answer
    rows = [
        (edit, query)
        for edit in edits
        for query in (
            edit.prompt,
            *edit.rephrase_prompts,
            chosen.format(edit.subject, edit.target_new),
        )
    ]
    asked = [edit for edit, _ in rows], [query for _, query in rows]
    assert with_reader.answer(*asked, 4) == without.answer(*asked, 4)
    targets = [edit.target_new for edit, _ in rows]
    assert with_reader.score(*asked, targets) == without.score(*asked, targets)
    assert with_reader.answer([], []) == []


def test_a_killed_training_begins_again_and_the_model_does_not_depend_on_the_reader(
    tiny: Tiny, training_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serac_core.scope import export

    encoder = str(save_encoder(tmp_path))

    def attempt(name: str, **changes: int) -> Path:
        start, config = str(tiny("gpt2")), settings(max_steps=4, reader_batch_size=4, **changes)
        out, cache = tmp_path / name, tmp_path / "c"
        train(training_set, start, out, config, cache_dir=cache, encoder=encoder)
        return out

    def weights(folder: Path) -> str:
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()

    ends = []

    def die(network: Any, texts: list[str], logits_NC: Any, graph: Path) -> None:
        ends.append((texts, logits_NC.tolist()))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(export, "export_classifier", die)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                attempt("killed", reader_steps=3)
            assert not list((tmp_path / "c").iterdir()) and not (tmp_path / "killed").exists()
    assert ends[0] == ends[1]

    plain, whole = attempt("plain"), attempt("whole", reader_steps=3)
    assert weights(plain) == weights(whole)
    assert len(list((tmp_path / "c").glob("counterfactual-*"))) == 1
    assert CounterfactualModel.load(plain).reader is None
    reader = YesNoReader.load(whole)
    assert reader is not None and len(reader.replies([], [])) == 0
    files = {file.name for file in (whole / READER_FOLDER).iterdir()}
    assert {READER_GRAPH, "tokenizer.json"} <= files and "log.jsonl" not in files

    def not_again(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(reader_training, "_train", not_again)
    attempt("again", reader_steps=3)


def test_a_damaged_reader_is_named(trained: Path, tmp_path: Path) -> None:
    own = tmp_path / READER_FOLDER
    own.mkdir()
    with pytest.raises(UnusableReader, match=READER_GRAPH) as caught:
        YesNoReader.load(tmp_path)
    assert "serac train counterfactual" in caught.value.remedy
    (own / READER_GRAPH).write_bytes((trained / READER_FOLDER / READER_GRAPH).read_bytes())
    (own / "tokenizer.json").write_text("{")
    with pytest.raises(UnusableReader, match="tokenizer"):
        YesNoReader.load(tmp_path)
    assert YesNoReader.load(tmp_path / "none") is None
