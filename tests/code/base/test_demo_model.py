"""The pretraining stage: what it draws, and that an interrupted run ends as an unbroken one."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from serac_core.base import demo_model
from serac_core.base.demo_corpus import DemoCorpus
from serac_core.base.language_model import LanguageModel, printable_pieces
from serac_core.config import DemoModelConfig
from serac_core.edits.jsonl import read_edits
from serac_core.edits.world import load_world

DATA = Path(__file__).parents[3] / "data"
TINY = DemoModelConfig(
    vocab_size=512,
    hidden_size=32,
    intermediate_size=32,
    layer_pairs=1,
    steps=4,
    recall_batch=8,
    reading_batch=8,
    late_recall_batch=8,
    late_reading_batch=8,
    warmup_steps=1,
    evaluate_every=2,
    evaluation_examples=8,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("small")
    world = folder / "world"
    world.mkdir()
    for name in ("capital.json", "continent.json", "traffic.txt"):
        (world / name).write_bytes((DATA / "world" / name).read_bytes())
    edits = folder / "edits.jsonl"
    lines = (DATA / "edits.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    edits.write_text("".join(lines[:5]), encoding="utf-8")
    return world, edits


def pretrain(data: tuple[Path, Path], out: Path, cache: Path) -> bytes:
    demo_model.pretrain_demo_model(*data, out, TINY, cache)
    return (out / "model.safetensors").read_bytes()


def test_an_interrupted_run_ends_with_the_weights_of_an_unbroken_one(
    small_data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = pretrain(small_data, tmp_path / "unbroken", tmp_path / "cache-1")

    steps = 0
    accumulate = demo_model._accumulate

    def interrupted(*arguments: object) -> float:
        nonlocal steps
        steps += 1
        if steps > 6:  # two batches a step: in the fourth step, after the checkpoint at two
            raise KeyboardInterrupt
        return accumulate(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(demo_model, "_accumulate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(small_data, tmp_path / "broken", tmp_path / "cache-2")
    assert not (tmp_path / "broken").exists()
    assert pretrain(small_data, tmp_path / "broken", tmp_path / "cache-2") == unbroken
    curve = (tmp_path / "broken" / "learning_curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in curve] == [2, 4]


@pytest.mark.parametrize("wide", [False, True])
def test_held_out_relations_and_phrasings_are_recalled_but_never_read(wide: bool) -> None:
    world = load_world(DATA / "world")
    corpus = DemoCorpus(world, read_edits(DATA / "edits.jsonl"))
    recalled = {query for query, _ in corpus.recall_queries}
    assert "What is the currency of Japan?" in recalled
    read = "\n".join(e.context for e in corpus.reading(Random(1), 5_000, wide))
    for relation in world.relations:
        kept_out = relation.held_out_phrasings + relation.held_out_edits_only_phrasings
        if relation.split == "held_out":
            kept_out = (*relation.phrasings, *kept_out)
        for phrasing in kept_out:
            start, end = phrasing.split("{subject}")
            for subject in list(relation.facts)[:40]:
                assert f"{start}{subject}{end}" not in read


def test_a_reading_holds_its_answer_and_a_recall_does_not_need_to() -> None:
    corpus = DemoCorpus(load_world(DATA / "world"), [])
    corpus.pieces = ["ka", " zu", "7"]
    for wide in (False, True):
        for example in corpus.reading(Random(2), 500, wide):
            assert example.answer in example.context
    assert corpus.edit_queries == []


def test_wide_reading_is_of_what_is_only_asked_too_and_of_any_tokens() -> None:
    world = load_world(DATA / "world")
    corpus = DemoCorpus(world, [])
    corpus.pieces = ["ka", " zu", "7"]
    read = corpus.reading(Random(3), 500, wide=True)
    assert sum(not set(example.answer) - set("kazu7 ") for example in read) > 50
    answers = {answer for relation in world.asked_relations for answer in relation.answers}
    assert sum(example.answer in answers for example in read) > 50


def test_pieces_are_what_a_vocabulary_can_print() -> None:
    tokenizer = LanguageModel.load(DATA / "demo_model").tokenizer
    pieces = printable_pieces(tokenizer)
    assert len(pieces) > 3_000
    assert " of" in pieces
    assert not {"<pad>", "<eos>", " ", "\n"} & set(pieces)
    assert not any("\ufffd" in piece for piece in pieces)


def test_the_shipped_model_fits_the_repository() -> None:
    files = list((DATA / "demo_model").iterdir())
    assert sum(file.stat().st_size for file in files) < 20e6
    assert {"model.safetensors", "tokenizer.json", "learning_curve.jsonl"} <= {
        file.name for file in files
    }
