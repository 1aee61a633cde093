"""A sentence encoder small enough to write down: word vectors, mean pooling, unit length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

_VOCABULARY = (
    "[unk] x what is the capital of currency in a who wrote please tell me which city language "
    "spoken money does use name france norway guinea bissau tea bread joke weather now ? . , - ' "
    "and about"
)
WORDS = _VOCABULARY.split()
DIMENSIONS = 24


def tokenizer_text() -> str:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, "[unk]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return str(tokenizer.to_str())


def graph(
    *,
    seed: int = 3,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    scale: float = 1.0,
) -> bytes:
    """Mean of word vectors over the mask, divided by its length; `scale` may spoil it."""
    vectors_VD = np.random.default_rng(seed).normal(size=(len(WORDS), DIMENSIONS))
    constants = [
        numpy_helper.from_array((vectors_VD * scale).astype(np.float32), "vectors"),
        numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "tokens"),
        numpy_helper.from_array(np.array(1e-9, dtype=np.float32), "least"),
    ]
    nodes = [
        helper.make_node("Gather", ["vectors", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["words", "weights"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["sum"], keepdims=0),
        helper.make_node("ReduceL2", ["sum", "tokens"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "least"], ["divisor"]),
        helper.make_node("Div", ["sum", "divisor"], ["sentence_vector"]),
    ]
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in inputs],
            [
                helper.make_tensor_value_info(
                    "sentence_vector", TensorProto.FLOAT, ["B", DIMENSIONS]
                )
            ],
            initializer=constants,
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())
