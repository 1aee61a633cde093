"""The edit memory: what is kept of an edit, reuse of keys, search, files."""

from __future__ import annotations

import json
import mmap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tiny_encoder import graph

from serac_core.edits.record import Edit
from serac_core.scope.memory import DamagedMemory, EditMemory, ForeignMemory
from serac_core.scope.memory_store import save_memories
from serac_core.scope.session import OnnxEncoder


def keys_of(memory):
    (segment,) = memory.segments
    return segment.keys.keys_KD


class Counting:
    """An encoder that remembers what it was asked to encode."""

    def __init__(self, encoder):
        self._encoder = encoder
        self.digest = encoder.digest
        self.scorer = encoder.scorer
        self.asked = []

    def encode(self, texts, batch_size=64):
        self.asked += texts
        return self._encoder.encode(texts, batch_size)


def test_a_key_is_the_prompt_with_its_subject_masked(edits, encoder):
    counting = Counting(encoder)
    memory = EditMemory.build(edits, counting)
    assert counting.asked == [
        "The capital of X is",  # shared by France and Norway
        "Which money does X use?",
        "What is the capital of X?",
        "Tell me a joke about tea",  # no subject: the whole prompt
    ]
    assert memory.segments[0].edits.key_E.tolist() == [0, 0, 1, 2, 3]
    assert memory.about(("france",)) == [0, 2]
    assert memory.about(("spain",)) == []
    assert memory.whole_texts.tolist() == [4]
    np.testing.assert_allclose(keys_of(memory), encoder.encode(counting.asked), atol=1e-6)


def test_an_edit_whose_prompt_does_not_name_its_subject_is_kept_whole(encoder):
    edit = Edit(prompt="Who wrote it?", subject="Guinea", target_new="Me")
    memory = EditMemory.build([edit], encoder)
    assert memory.whole_texts.tolist() == [0]
    assert memory.about(("guinea",)) == []


def test_a_rebuild_encodes_only_what_is_new_and_gives_the_same_bytes(edits, encoder, tmp_path):
    before = EditMemory.build(edits[:3], encoder)
    counting = Counting(encoder)
    changed = [*edits[1:], Edit(id="e-tea", prompt="Tea is", subject="Tea", target_new="x")]
    after = EditMemory.build(changed, counting, before)
    assert counting.asked == ["What is the capital of X?", "X is", "Tell me a joke about tea"]
    after.save(tmp_path / "little by little")
    EditMemory.build(changed, encoder).save(tmp_path / "at once")
    for path in (tmp_path / "at once").iterdir():
        assert path.read_bytes() == (tmp_path / "little by little" / path.name).read_bytes()


def test_keys_of_another_encoder_are_not_reused(edits, encoder, make_encoder):
    other = OnnxEncoder.load(make_encoder("other", {"encoder.onnx": graph(seed=8)}))
    counting = Counting(encoder)
    memory = EditMemory.build(edits, counting, EditMemory.build(edits, other))
    assert len(counting.asked) == len(keys_of(memory))


def test_saved_and_loaded_is_the_same_memory_mapped(edits, encoder, tmp_path):
    memory = EditMemory.build(edits, encoder)
    memory.save(tmp_path / "memory")
    loaded = EditMemory.load(tmp_path / "memory", encoder.digest)
    assert [loaded.entry(n) for n in range(len(edits))] == [memory.entry(n) for n in range(5)]
    assert loaded.entry(2).subject == ("france",)
    for part in ("edits", "keys"):
        found = getattr(loaded.segments[0], part).arrays()
        for name, array in getattr(memory.segments[0], part).arrays().items():
            np.testing.assert_array_equal(found[name], array)
    base = keys_of(loaded)
    while isinstance(base, np.ndarray):
        assert not base.flags.writeable
        base = base.base
    assert isinstance(base, mmap.mmap) or isinstance(base.obj, mmap.mmap)


def test_each_variant_finds_its_own_keys(edits, encoder, make_encoder, tmp_path):
    int8 = OnnxEncoder.load(make_encoder("int8", {"encoder_int8.onnx": graph(seed=4)}), "int8")
    memories = {"fp32": EditMemory.build(edits, encoder), "int8": EditMemory.build(edits, int8)}
    save_memories(tmp_path / "memory", memories)
    for variant, digest in (("fp32", encoder.digest), ("int8", int8.digest)):
        found = EditMemory.load(tmp_path / "memory", digest)
        np.testing.assert_array_equal(keys_of(found), keys_of(memories[variant]))


def test_an_empty_memory_is_a_memory(encoder, tmp_path):
    EditMemory.build([], encoder).save(tmp_path / "memory")
    loaded = EditMemory.load(tmp_path / "memory", encoder.digest)
    assert len(loaded) == 0
    places, scores = loaded.search(encoder.encode(["tea", "bread"]), 3)
    assert places.shape == scores.shape == (2, 0)


def test_a_memory_of_another_encoder_is_refused(edits, encoder, tmp_path):
    EditMemory.build(edits, encoder).save(tmp_path / "memory")
    with pytest.raises(ForeignMemory, match=encoder.digest[:12]):
        EditMemory.load(tmp_path / "memory", "0" * 64)


@pytest.mark.parametrize(
    "file", ["manifest.json", "edits-1.safetensors", "keys-1-fp32.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_damaged_files_are_named(edits, encoder, tmp_path, file, damage):
    EditMemory.build(edits, encoder).save(tmp_path / "memory")
    path = tmp_path / "memory" / file
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-7])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(DamagedMemory) as caught:
        EditMemory.load(tmp_path / "memory", encoder.digest)
    assert file in str(caught.value)
    assert "serac memory build" in str(caught.value)


def test_another_format_is_refused(edits, encoder, tmp_path):
    EditMemory.build(edits, encoder).save(tmp_path / "memory")
    path = tmp_path / "memory" / "manifest.json"
    for other in (1, 99):
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": other}))
        with pytest.raises(DamagedMemory, match=f"format {other}") as caught:
            EditMemory.load(tmp_path / "memory", encoder.digest)
        assert "serac memory build" in str(caught.value)


def test_the_files_are_safetensors(edits, encoder, tmp_path):
    memory = EditMemory.build(edits, encoder)
    memory.save(tmp_path / "memory")
    found = load_file(tmp_path / "memory" / "keys-1-fp32.safetensors")
    np.testing.assert_array_equal(found["keys"], keys_of(memory))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    words=st.lists(st.sampled_from(["tea", "bread", "joke", "weather", "Tea now"]), max_size=12),
    k=st.integers(1, 14),
    data=st.data(),
)
def test_search_is_exact_and_ties_go_to_the_newest(encoder, words, k, data):
    edits = [Edit(id=f"e{n}", prompt=word, target_new="x") for n, word in enumerate(words)]
    chosen = data.draw(st.sets(st.sampled_from(range(len(words)))) if words else st.just(set()))
    among = sorted(chosen) if data.draw(st.booleans()) else None
    memory = EditMemory.build(edits, encoder)
    query_D = encoder.encode(["what about tea and bread"])[0]
    places, scores = memory.search(query_D[None], k, among)
    candidates = range(len(words)) if among is None else among
    cosine = {
        n: float(keys_of(memory)[memory.segments[0].edits.key_E[n]] @ query_D) for n in candidates
    }
    expected = sorted(candidates, key=lambda n: (-round(cosine[n], 5), -n))[:k]
    assert places[0].tolist() == expected
    np.testing.assert_allclose(scores[0], [cosine[n] for n in expected], atol=1e-6)


def test_search_in_blocks_is_the_same(edits, encoder, monkeypatch):
    memory = EditMemory.build(edits, encoder)
    queries = encoder.encode(["tea", "the capital of X is", "bread", "money", "joke"])
    whole = memory.search(queries, 3)
    monkeypatch.setattr("serac_core.scope.memory.BLOCK_SCORES", 10)
    for found, expected in zip(memory.search(queries, 3), whole, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
