"""The memory that changes while it is read: what each change does, on disk and for readers."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_encoder import graph

from serac_core.edits.record import Edit
from serac_core.scope import live_memory
from serac_core.scope.live_memory import LiveMemory, LiveRouter, UnknownEdit
from serac_core.scope.memory import DamagedMemory, EditMemory, ForeignMemory
from serac_core.scope.memory_files import read_manifest
from serac_core.scope.memory_store import read_stored, save_memories
from serac_core.scope.router import Router
from serac_core.scope.session import OnnxEncoder

FILE_KINDS = ("edits", "keys", "removed")


def about(name: str, id_: str | None = None, **fields: str) -> Edit:
    prompt = f"The capital of {name} is"
    return Edit(id=id_ or f"e-{name}", prompt=prompt, subject=name, target_new="x", **fields)


@pytest.fixture
def folder(tmp_path, edits, encoder) -> Path:
    EditMemory.build(edits, encoder).save(tmp_path / "memory")
    return tmp_path / "memory"


@pytest.fixture
def live(folder, encoder) -> LiveMemory:
    return LiveMemory.open(folder, [encoder])


def router_of(live: LiveMemory, encoder: OnnxEncoder) -> LiveRouter:
    with live.reading() as memory:
        return LiveRouter(Router(encoder, memory, 0.8), live)


def routed(live: LiveMemory, encoder: OnnxEncoder, *queries: str) -> list[str | None]:
    return [decision.edit_id for decision in router_of(live, encoder).route(queries)]


def test_added_edits_are_routed_to_and_on_disk(live, folder, encoder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = live.add([about("Tea"), Edit(id="w", prompt="weather now", target_new="x")])
    assert (done.added, done.removed, done.encoded) == (2, 0, {"fp32": 1})  # one key was known
    queries = ["the capital of tea is", "weather now", "The capital of France is"]
    assert routed(live, encoder, *queries) == ["e-Tea", "w", "e-capital-france"]
    loaded = EditMemory.load(folder, encoder.digest)
    assert len(loaded) == len(live) == 7
    assert [d.edit_id for d in Router(encoder, loaded, 0.8).route(queries)] == [
        "e-Tea", "w", "e-capital-france",
    ]  # fmt: skip
    for name in ("edits-1.safetensors", "keys-1-fp32.safetensors"):
        assert (folder / name).stat().st_mtime_ns == before[name]


def test_retracted_edits_are_gone_at_once(live, folder, encoder):
    done = live.retract(["e-capital-france", "e-joke"])
    assert (done.added, done.removed) == (0, 2)
    queries = ["The capital of France is", "Tell me a joke about tea", "The capital of Norway is"]
    expected = [None, None, "e-capital-norway"]
    assert routed(live, encoder, *queries) == expected
    assert routed(LiveMemory.open(folder), encoder, *queries) == expected
    with pytest.raises(UnknownEdit, match="e-joke"):
        live.retract(["e-joke"])
    live.add([about("France", "e-capital-france")])
    assert routed(live, encoder, *queries) == ["e-capital-france", None, "e-capital-norway"]


def test_a_superseding_edit_removes_the_other(live, encoder):
    new = about("France", "new", supersedes="e-capital-france")
    assert live.supersede(new).removed == 1
    assert routed(live, encoder, "The capital of France is") == ["new"]
    live.retract(["new"])
    assert routed(live, encoder, "The capital of France is") == [None]
    with pytest.raises(UnknownEdit, match="none"):
        live.supersede(about("France", supersedes="none"))


def test_an_edit_replaces_that_of_its_id_and_earlier_ones_of_the_batch(live, encoder):
    done = live.add(
        [
            about("Tea", "e-capital-norway"),
            about("Bread", "a"),
            about("Weather", "b", supersedes="a"),
            about("France", "e-capital-guinea", status="retracted"),
            about("Money", "c"),
            about("City", "c"),
        ]
    )
    assert (done.added, done.removed, len(live)) == (3, 2, 6)
    names = ["Norway", "Tea", "Bread", "Weather", "Guinea", "Money", "City"]
    assert routed(live, encoder, *(f"The capital of {name} is" for name in names)) == [
        None, "e-capital-norway", None, "b", None, None, "c",
    ]  # fmt: skip


def test_segments_become_one_as_if_built_at_once(folder, encoder, edits, monkeypatch):
    monkeypatch.setattr(live_memory, "MOST_SEGMENTS", 3)
    monkeypatch.setattr(live_memory, "MOST_REMOVED", 0.9)
    live = LiveMemory.open(folder, [encoder])
    names = ["Tea", "Bread", "Weather", "Money", "City", "Language", "Joke", "Which"]
    added = [about(name) for name in names] + [Edit(id="w", prompt="joke", target_new="x")]
    most = 0
    for edit in added:
        live.add([edit], batch_size=1)
        most = max(most, len(read_manifest(folder)[0].segments))
    assert most == 3
    monkeypatch.setattr(live_memory, "MOST_REMOVED", 0.05)
    live.retract(["e-Bread", "e-capital-france", "e-joke"])
    manifest, _ = read_manifest(folder)
    assert (len(manifest.segments), manifest.removed) == (1, None)
    gone = {"e-Bread", "e-capital-france", "e-joke"}
    kept = [edit for edit in (*edits, *added) if edit.id not in gone]
    EditMemory.build(kept, encoder).save(folder.parent / "at once")
    for at_once, now in (("edits-1", manifest.segments[0].edits), ("keys-1-fp32", None)):
        now = now or manifest.segments[0].keys["fp32"]
        expected = (folder.parent / "at once" / f"{at_once}.safetensors").read_bytes()
        assert (folder / now).read_bytes() == expected
    listed = {*manifest.files, "manifest.json"}
    assert {path.name for path in folder.iterdir()} == listed


def test_a_key_of_several_segments_ties_and_the_newest_wins(live, encoder):
    live.add([Edit(id="first", prompt="bread", target_new="x"), about("Tea", "t1")])
    live.add([Edit(id="second", prompt="bread", target_new="x"), about("Tea", "t2")])
    asked = ["bread", "The capital of tea is"]
    assert routed(live, encoder, *asked) == ["second", "t2"]
    with live.reading() as memory:
        places, scores = memory.search(encoder.encode(["bread"]), 2, memory.whole_texts)
    assert [memory.entry(place).id for place in places[0]] == ["second", "first"]
    assert scores[0, 0] == scores[0, 1]
    live.retract(["second", "t2"])
    assert routed(live, encoder, *asked) == ["first", "t1"]


def test_all_variants_change_together(edits, encoder, make_encoder, tmp_path):
    int8 = OnnxEncoder.load(make_encoder("int8", {"encoder_int8.onnx": graph(seed=4)}), "int8")
    memories = {"fp32": EditMemory.build(edits, encoder), "int8": EditMemory.build(edits, int8)}
    save_memories(tmp_path / "memory", memories)
    with pytest.raises(ForeignMemory, match="int8 was not given"):
        LiveMemory.open(tmp_path / "memory", [encoder]).add([about("Tea")])
    live = LiveMemory.open(tmp_path / "memory", [encoder, int8])
    live.add([about("Tea")])
    live.retract(["e-joke"])
    for one in (encoder, int8):
        router = Router(one, EditMemory.load(tmp_path / "memory", one.digest), 0.8)
        decisions = router.route(["the capital of tea is", "Tell me a joke about tea"])
        assert [decision.edit_id for decision in decisions] == ["e-Tea", None]


def test_an_encoder_of_other_keys_is_refused(folder, make_encoder):
    other = OnnxEncoder.load(make_encoder("other", {"encoder.onnx": graph(seed=8)}))
    with pytest.raises(ForeignMemory, match=other.digest[:12]):
        LiveMemory.open(folder, [other])


def test_what_another_process_writes_is_taken_over(folder, encoder):
    one, other = (LiveMemory.open(folder, [encoder]) for _ in range(2))
    one.add([about("Tea")])
    other.add([about("Bread")])  # on top of what the first one wrote
    assert one.refresh()
    assert not one.refresh()
    names = ["tea", "bread"]
    assert routed(one, encoder, *(f"the capital of {n} is" for n in names)) == ["e-Tea", "e-Bread"]


@pytest.mark.parametrize("kind", FILE_KINDS)
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_damage_to_any_file_of_a_changed_memory_is_named(folder, encoder, live, kind, damage):
    live.add([about("Tea")])
    live.retract(["e-joke"])
    for path in sorted(folder.glob(f"{kind}*")):
        content = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            altered = bytes([content[-1] ^ 1])
            path.write_bytes(content[:-1] + (altered if damage == "altered" else b""))
        with pytest.raises(DamagedMemory) as caught:
            EditMemory.load(folder, encoder.digest)
        assert path.name in str(caught.value)
        path.write_bytes(content)
    assert len(EditMemory.load(folder, encoder.digest)) == 5


def test_what_a_killed_writer_left_is_written_over(folder, encoder, live):
    (folder / "edits-2.safetensors").write_bytes(b"half")
    (folder / "keys-9-fp32.safetensors").write_bytes(b"half")
    assert len(EditMemory.load(folder, encoder.digest)) == 5
    live.add([about("Tea")])
    assert len(EditMemory.load(folder, encoder.digest)) == 6
    assert not (folder / "keys-9-fp32.safetensors").exists()


def test_a_failed_write_leaves_the_memory_as_it_was(folder, encoder, live, monkeypatch):
    def fails(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("serac_core.scope.memory_store.write_manifest", fails)
    with pytest.raises(OSError, match="disk full"):
        live.retract(["e-joke"])
    assert routed(live, encoder, "Tell me a joke about tea") == ["e-joke"]
    assert len(EditMemory.load(folder, encoder.digest)) == 5


def test_retracting_waits_for_the_decisions_under_way(live):
    started, go_on = threading.Event(), threading.Event()
    ends: dict[str, float] = {}

    def reads() -> None:
        with live.reading() as memory:
            started.set()
            go_on.wait(10)
            assert len(memory) == 5
            ends["reader"] = time.monotonic()

    def retracts() -> None:
        live.retract(["e-joke"])
        ends["writer"] = time.monotonic()

    threads = [threading.Thread(target=reads), threading.Thread(target=retracts)]
    threads[0].start()
    started.wait(10)
    threads[1].start()
    time.sleep(0.3)
    assert "writer" not in ends
    with live.reading() as memory:  # a new reader has the new state already
        assert len(memory) == 4
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert ends["reader"] <= ends["writer"]
    with live.reading():
        live.retract(["e-capital-norway"])  # its own reading doesn't stop a thread


def test_readers_see_whole_states_while_edits_come_and_go(folder, encoder):
    live = LiveMemory.open(folder, [encoder])
    router = router_of(live, encoder)
    batches = [[about(f"b{batch}x{n}") for n in range(50)] for batch in range(20)]
    retracted: list[set[str]] = []
    errors: list[BaseException | str] = []
    calls = np.zeros(8, dtype=int)
    done = threading.Event()

    def reads(number: int) -> None:
        rng = np.random.default_rng(number)
        try:
            while not done.is_set():
                batch = batches[rng.integers(len(batches))]
                gone = set().union(*retracted[: len(retracted)])
                found = router.route([edit.prompt for edit in batch])
                ids = [decision.edit_id for decision in found]
                if ids not in ([edit.id for edit in batch], [None] * len(batch)):
                    errors.append(f"torn: {ids}")
                if gone.intersection(ids):
                    errors.append(f"retracted: {gone.intersection(ids)}")
                if number == 0:
                    EditMemory.load(folder, encoder.digest)
                calls[number] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=reads, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for number, batch in enumerate(batches):
        live.add(batch)
        if number >= 5:
            live.retract([edit.id for edit in batches[number - 5]])
            retracted.append({edit.id for edit in batches[number - 5]})
    for batch in batches[15:]:
        live.retract([edit.id for edit in batch])
        retracted.append({edit.id for edit in batch})
    done.set()
    for thread in threads:
        thread.join(30)
    assert not errors, errors[:3]
    assert calls.min() > 0
    assert len(live) == 5
    stored = read_stored(folder)
    assert len(stored.memories["fp32"]) == 5
