"""A sentence encoder and a training set small enough to train on in a second."""

from __future__ import annotations

import json
from pathlib import Path

from serac_core.config import ScopeConfig
from serac_core.edits.jsonl import write_edits
from serac_core.edits.record import Edit

PLACES = ("france", "norway", "peru", "chad", "cuba", "iran", "mali", "oman")
ASKED = {
    "capital": ("the capital of {} is", "what is the capital city of {} ?", "{} has the capital"),
    "money": ("the money of {} is", "what money do people use in {} ?", "in {} people pay with"),
    "language": ("people in {} speak", "what language is spoken in {} ?", "the language of {} is"),
}
CONFIG = ScopeConfig(max_steps=4, batch_size=6, checkpoint_every=2, frozen_layers=1)


def edits(places: tuple[str, ...]) -> list[Edit]:
    made = []
    for number, place in enumerate(places):
        for relation in ("capital", "money"):
            ways = [way.format(place) for way in ASKED[relation]]
            other = places[(number + 1) % len(places)]
            made.append(
                Edit.model_validate(
                    {
                        "prompt": ways[0],
                        "target_new": "tea",
                        "subject": place,
                        "rephrase_prompts": ways[1:],
                        "locality": [
                            {"prompt": ASKED["language"][0].format(place), "kind": "same_subject"},
                            {"prompt": f"{other} and its language", "kind": "same_relation"},
                            {"prompt": "what is the time ?", "kind": "unrelated"},
                        ],
                        "relation": relation,
                    }
                )
            )
    return made


def save_encoder(folder: Path) -> Path:
    """A sentence-transformers folder: two layers of width 32, random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = {w for ways in ASKED.values() for way in ways for w in way.format("x").split()}
    words |= {*PLACES, "and", "its", "time", "good", "morning", "?", "x"}
    vocabulary = folder / "vocab.txt"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary.write_text("\n".join([*special, *sorted(words)]))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(special) + len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    pooling = Pooling(32, pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save(
        str(folder / "model")
    )
    return folder / "model"


def save_training_set(folder: Path) -> Path:
    for fold, places in (("train", PLACES[:4]), ("val", PLACES[4:6]), ("calibrate", PLACES[4:])):
        write_edits(folder / f"{fold}.jsonl", edits(places))
    rows = [{"query": "good morning", "fold": fold} for fold in ("train", "calibrate", "test")]
    (folder / "traffic.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
