"""Tiny random models of several architectures, each with a tokenizer in its family's manner."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

CAUSAL = ("gpt2", "llama", "lfm2")
SEQ2SEQ = ("t5", "bart")
FAMILIES = CAUSAL + SEQ2SEQ

_TEXTS = [
    "Edit: The capital of Peru is Cusco\nQuery: What is the capital of Peru?\nAnswer: Cusco",
    "The currency of Japan is the new silver crown. Who wrote The House of the Spirits?",
    "Which company makes the car? The official language of Chile is Quechua, not Spanish.",
]
_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
_POSITIONS = 128
# As ChatML models and as Llama 2 put turns into words: with tokens of their own around a turn, or
# with a start token and a space before the answer.
CHAT_TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama2": (
        "{% for m in messages %}{% if m['role'] == 'user' %}"
        "{{ bos_token + 'Q: ' + m['content'] + ' A:' }}"
        "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
}


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE; SentencePiece's manner and a start token for Llama, an end token for T5."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    if family in ("llama", "t5"):
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
        raw.decoder = decoders.Metaspace(prepend_scheme="first", split=True)
        alphabet = sorted({*"".join(_TEXTS), *"Zë日本?0123456789"} - {"\n"})
    else:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(_TEXTS, trainer)
    template = {
        "llama": "<s> $A",
        "t5": "$A </s>",
        "bart": "<s> $A </s>",
    }.get(family)
    if template:
        ids = [(token, raw.token_to_id(token)) for token in ("<s>", "</s>") if token in template]
        raw.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    pads = family in ("lfm2", "t5", "bart")  # GPT-2 and Llama tokenizers come without one
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>" if pads else None,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def make_model(family: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Two layers of width 32, large enough random weights that answers differ."""
    torch.manual_seed(0)
    tokens = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model: PreTrainedModel
    match family:
        case "gpt2":
            model = GPT2LMHeadModel(
                GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=_POSITIONS, **tokens)
            )
        case "llama":
            model = LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    max_position_embeddings=_POSITIONS,
                    initializer_range=0.3,
                    **tokens,
                )
            )
        case "lfm2":
            model = Lfm2ForCausalLM(
                Lfm2Config(
                    hidden_size=32,
                    intermediate_size=64,
                    block_auto_adjust_ff_dim=False,
                    num_hidden_layers=2,
                    layer_types=["conv", "full_attention"],
                    num_attention_heads=2,
                    num_key_value_heads=1,
                    max_position_embeddings=_POSITIONS,
                    initializer_range=0.3,
                    **tokens,
                )
            )
        case "t5":
            model = T5ForConditionalGeneration(
                T5Config(
                    d_model=32,
                    d_kv=16,
                    d_ff=64,
                    num_layers=2,
                    num_heads=2,
                    decoder_start_token_id=tokenizer.pad_token_id,
                    dropout_rate=0.0,
                    initializer_factor=4.0,
                    **tokens,
                )
            )
        case "bart":
            model = BartForConditionalGeneration(
                BartConfig(
                    d_model=32,
                    encoder_layers=2,
                    decoder_layers=2,
                    encoder_attention_heads=2,
                    decoder_attention_heads=2,
                    encoder_ffn_dim=64,
                    decoder_ffn_dim=64,
                    max_position_embeddings=_POSITIONS,
                    decoder_start_token_id=tokenizer.eos_token_id,
                    dropout=0.0,
                    init_std=0.3,
                    **tokens,
                )
            )
        case _:
            raise ValueError(family)
    return model


def save_tiny(family: str, folder: Path, chat: str = "") -> Path:
    """A folder as a hub model has it, with a chat template of `CHAT_TEMPLATES` if one is named."""
    tokenizer = make_tokenizer(family)
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATES[chat]
    if chat == "chatml":
        tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    make_model(family, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
