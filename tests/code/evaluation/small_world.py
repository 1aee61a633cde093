"""A world of invented countries, models that know it, and an encoder that reads key words.

The router, the memory, the edited model, the scoring and the gate are the real ones.
"""

import hashlib
import re

import numpy as np

from serac_core.base import LanguageModel, TokenScore
from serac_core.counterfactual import CounterfactualModel
from serac_core.edits import Edit
from serac_core.scope.cohort import Cohort, CohortScorer

COUNTRIES = [f"Land{number}" for number in range(110)]
NEIGHBOURS = [f"Isle{number}" for number in range(110)]
_KEY = re.compile(r"capital|coin|river|Land\d+|Isle\d+|hello|X\b")


def ids_of(text):
    return tuple(int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) for word in text.split())


def truth(query):
    """What the base model knows: an answer that depends on the key words alone."""
    return "true " + "-".join(sorted(_KEY.findall(query)))


class WordModel:
    """Stands in for a language model whose tokens are words; it reads an edit if there is one."""

    def generate(self, prompts, max_new_tokens=24, batch_size=64):
        return [self.say(prompt) for prompt in prompts]

    def score(self, prompts, targets, batch_size=64):
        scores = []
        for prompt, target in zip(prompts, targets, strict=True):
            expected, said = ids_of(target), ids_of(self.say(prompt))
            padded = (said + (0,) * len(expected))[: len(expected)]
            scores.append(TokenScore(target_ids=expected, predicted_ids=padded))
        return scores

    @staticmethod
    def say(prompt):
        read = re.match(r"Edit: .*\nAnswer: (.*)\nQuery: ", prompt)
        return read[1] if read else truth(prompt)


class KeywordEncoder:
    """Texts with the same key words have the same vector, others nearly orthogonal ones."""

    digest = "key words"
    verifier = None

    def __init__(self):
        self.scorer = CohortScorer(Cohort(), np.empty((0, 64), dtype=np.float32))

    def encode(self, texts, batch_size=64):
        return np.stack([self.vector(text) for text in texts])

    def vector(self, text):
        words = "-".join(sorted(_KEY.findall(text)))
        seed = int(hashlib.sha256(words.encode()).hexdigest()[:8], 16)
        vector = np.random.default_rng(seed).standard_normal(64).astype(np.float32)
        return vector / np.linalg.norm(vector)


class ConstantEncoder(KeywordEncoder):
    """Sabotaged: to it all texts mean the same, so everything is in scope."""

    def vector(self, text):
        return super().vector("")


def make_edits(with_subjects=True):
    return [
        Edit.model_validate(
            {
                "prompt": f"The capital of {country} is",
                "target_new": f"New Town{number}",
                "subject": country if with_subjects else "",
                "rephrase_prompts": [f"What is the capital of {country}?"],
                "locality": [
                    {"prompt": prompt, "ground_truth": truth(prompt), "kind": kind}
                    for kind, prompt in (
                        ("same_subject", f"The coin of {country} is"),
                        ("same_relation", f"The capital of {neighbour} is"),
                        ("unrelated", f"The river of {neighbour} is"),
                    )
                ],
                "relation": "capital",
                "held_out_relation": number % 2 == 0,
            }
        )
        for number, (country, neighbour) in enumerate(zip(COUNTRIES, NEIGHBOURS, strict=True))
    ]


def reading_model():
    return CounterfactualModel(WordModel())


def random_language_model():
    """A real network and byte-level tokenizer, never trained."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import Lfm2Config, Lfm2ForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(
        models.BPE({token: n for n, token in enumerate(["<pad>", "<eos>", *alphabet])}, [])
    )
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        block_auto_adjust_ff_dim=False,
        num_hidden_layers=2,
        layer_types=["conv", "full_attention"],
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LanguageModel(Lfm2ForCausalLM(config).eval(), tokenizer)
