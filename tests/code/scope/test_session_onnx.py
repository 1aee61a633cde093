"""The exported encoder in ONNX Runtime: what it gives and what it refuses."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_encoder import DIMENSIONS, WORDS, graph

from serac_core.scope.session import (
    OnnxEncoder,
    ProviderUnavailable,
    UnknownVariant,
    UnusableEncoder,
    exported_variants,
)

TEXTS = [
    "What is the capital of France?",
    "tea",
    "",
    "Who wrote the joke about the weather in Norway, and in which language?",
    "TEA",
]


def by_hand(words: list[str]) -> np.ndarray:
    vectors_VD = np.random.default_rng(3).normal(size=(len(WORDS), DIMENSIONS)).astype(np.float32)
    mean_D = vectors_VD[[WORDS.index(word) for word in words]].mean(axis=0)
    return mean_D / np.linalg.norm(mean_D)


def test_vectors_are_what_the_graph_defines(encoder):
    found = encoder.encode(["the capital of norway", "bread"])
    assert found.dtype == np.float32
    assert found.shape == (2, DIMENSIONS)
    np.testing.assert_allclose(found[0], by_hand(["the", "capital", "of", "norway"]), atol=1e-6)
    np.testing.assert_allclose(found[1], by_hand(["bread"]), atol=1e-6)


def test_vectors_come_in_the_order_of_the_texts_whatever_the_batches(encoder):
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    for batch_size in (1, 2, 64):
        np.testing.assert_allclose(encoder.encode(TEXTS, batch_size), alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), [1, 1, 0, 1, 1], atol=1e-6)
    assert encoder.encode([]).shape[0] == 0


def test_token_type_ids_are_fed_when_the_graph_asks(make_encoder):
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    encoder = OnnxEncoder.load(make_encoder("types", {"encoder.onnx": graph(inputs=inputs)}))
    np.testing.assert_allclose(encoder.encode(["bread"])[0], by_hand(["bread"]), atol=1e-6)


def test_a_long_text_is_cut_after_128_tokens(encoder):
    long = " ".join(["tea"] * 128 + ["bread"] * 100_000)
    np.testing.assert_allclose(encoder.encode([long]), encoder.encode(["tea"]), atol=1e-6)


def test_text_that_is_no_text_is_mended(encoder):
    assert np.isfinite(encoder.encode(["tea \ud800\0 bread"])).all()
    np.testing.assert_array_equal(encoder.encode(["tea\0bread"]), encoder.encode(["tea bread"]))


def test_threads_share_an_encoder(encoder):
    expected = encoder.encode(TEXTS[:2])
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: encoder.encode(TEXTS[:2]), range(64)):
            np.testing.assert_array_equal(found, expected)


def test_the_digest_tells_graphs_tokenizers_and_cohorts_apart(make_encoder):
    one, again = make_encoder("one"), make_encoder("again")
    other = make_encoder("other", {"encoder.onnx": graph(seed=9)})
    cohort = make_encoder("cohort", cohort=[("X is", "capital")])
    words = make_encoder("words")
    text = (words / "tokenizer.json").read_text()
    (words / "tokenizer.json").write_text(text.replace('"bread"', '"cake"'))
    digests = [OnnxEncoder.load(folder).digest for folder in (one, other, cohort, words)]
    assert len(set(digests)) == 4
    assert OnnxEncoder.load(again).digest == digests[0]


def test_saved_cohort_vectors_are_read_and_belong_to_the_digest(make_encoder):
    cohort = [("X is", "capital"), ("money X", "currency"), ("the capital of X", "capital")]
    folder = make_encoder("cohort", cohort=cohort)
    made = OnnxEncoder.load(folder)
    made.cohort.save(folder, made.encode(made.cohort.texts))
    loaded = OnnxEncoder.load(folder)
    assert loaded.digest != made.digest
    loaded.encode = None  # reading them needs no encoder pass
    query_1D = made.encode(["money is"])
    np.testing.assert_allclose(
        loaded.scorer.relation_closeness(query_1D),
        made.scorer.relation_closeness(query_1D),
        atol=1e-3,
    )
    np.save(folder / "cohort.npy", made.encode(["tea"]))
    with pytest.raises(UnusableEncoder, match=r"cohort\.npy: float32 \(1, 24\) for 3 texts"):
        _ = OnnxEncoder.load(folder).scorer
    (folder / "cohort.npy").write_bytes(b"no array")
    with pytest.raises(UnusableEncoder, match=r"cohort\.npy: not readable"):
        _ = OnnxEncoder.load(folder).scorer


def test_an_absent_provider_is_an_error_that_names_the_available_ones(make_encoder):
    folder = make_encoder()
    with pytest.raises(ProviderUnavailable, match=r"'tpu'.*cpu"):
        OnnxEncoder.load(folder, provider="tpu")
    if not Path("/dev/nvidiactl").exists():
        with pytest.raises(ProviderUnavailable, match=r"'cuda'.*cpu"):
            OnnxEncoder.load(folder, provider="cuda")
    assert OnnxEncoder.load(folder, threads=1).provider == "cpu"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UnusableEncoder, match="nowhere: no such folder"):
        OnnxEncoder.load(tmp_path / "nowhere")


def test_a_missing_variant_is_named_with_those_that_are_there(make_encoder):
    folder = make_encoder()
    assert exported_variants(folder) == ["fp32"]
    for variant in ("int8", "int4"):
        with pytest.raises(UnknownVariant, match=f"'{variant}'.*fp32"):
            OnnxEncoder.load(folder, variant)


@pytest.mark.parametrize("file", ["encoder.onnx", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["truncate", "garbage"])
def test_damaged_files_are_named(make_encoder, file, damage):
    path: Path = make_encoder() / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "truncate" else b"\x00nonsense")
    with pytest.raises(UnusableEncoder, match=file):
        OnnxEncoder.load(path.parent)


def test_a_missing_tokenizer_is_named(make_encoder):
    folder = make_encoder()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnusableEncoder, match=r"tokenizer\.json"):
        OnnxEncoder.load(folder)


def test_a_graph_with_other_inputs_is_refused(make_encoder):
    inputs = ("input_ids", "attention_mask", "position_ids")
    folder = make_encoder("positions", {"encoder.onnx": graph(inputs=inputs)})
    with pytest.raises(UnusableEncoder, match="position_ids"):
        OnnxEncoder.load(folder)


def test_numbers_that_are_not_finite_are_an_error_not_a_route(make_encoder):
    folder = make_encoder("broken", {"encoder.onnx": graph(scale=float("nan"))})
    with pytest.raises(UnusableEncoder, match="not finite"):
        OnnxEncoder.load(folder).encode(["tea"])


def test_no_model_library_is_needed(make_encoder):
    """A router runs without PyTorch; importing it would take seconds."""
    import subprocess

    code = (
        "import sys; from serac_core.scope import OnnxEncoder, Router, EditMemory; "
        f"OnnxEncoder.load({str(make_encoder())!r}).encode(['tea']); "
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
