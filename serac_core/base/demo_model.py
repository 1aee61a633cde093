"""Pretraining of the demo language model, which plays the part of a hub model offline.

A frozen DVC stage: run once, its result shipped in `data/demo_model`. Small (about 6 M
parameters), but it knows its facts and reads statements. Short convolutions between attention
layers (the LFM2 architecture) let copying emerge within a few hundred steps, where a plain
transformer of this size takes over a thousand (docs/decisions/0001-demo-model.md).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from serac_core.base.demo_corpus import DemoCorpus, Example
from serac_core.base.language_model import printable_pieces
from serac_core.config import DemoModelConfig
from serac_core.edits.jsonl import read_edits
from serac_core.edits.world import load_world
from serac_core.progress import tell

if TYPE_CHECKING:
    import torch
    from transformers import Lfm2ForCausalLM, PreTrainedTokenizerFast


def pretrain_demo_model(
    world_dir: Path, edits_file: Path, out: Path, config: DemoModelConfig, cache_dir: Path
) -> dict[str, float]:
    """Pretrain, or resume, and write model, tokenizer and `learning_curve.jsonl` to `out`.

    Resumable: a checkpoint every `config.checkpoint_every` steps in `cache_dir/demo-model`;
    batches are functions of (seed, step), so that an interrupted run goes on as it would have.

    Returns
    -------
    dict
        The last line of the learning curve: exact match of recall and of reading.
    """
    import torch

    corpus = DemoCorpus(load_world(world_dir), read_edits(edits_file))
    checkpoint = cache_dir / "demo-model" / "checkpoint.pt"
    tokenizer = _tokenizer(corpus, config, checkpoint.parent / "tokenizer.json")
    corpus.pieces = printable_pieces(tokenizer)
    torch.manual_seed(config.seed)
    model = _model(config, tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()  # type: ignore[arg-type]
    optimizers = _optimizers(model, config)
    peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]
    parameters = sum(p.numel() for p in model.parameters())
    tell(f"demo model: {parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens, on {device}")

    curve: list[dict[str, float]] = []
    first_step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first_step, curve = state["step"], state["curve"]
        tell(f"resuming at step {first_step} from {checkpoint}")

    started = time.monotonic()
    for step in range(first_step, config.steps):
        rng = Random(f"{config.seed}:{step}")
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = rate * _schedule(step, config)
        recalled, read, wide = _phase(step, config)
        batches = (corpus.recall(rng, recalled), corpus.reading(rng, read, wide))
        losses = [_accumulate(model, tokenizer, examples, 4, device) for examples in batches]
        if not all(map(_finite, losses)):
            raise FloatingPointError(f"step {step}: the loss is {losses}; lower the learning rate")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % 20 == 0:
            pace = (time.monotonic() - started) / (done - first_step)
            tell(
                f"step {done}/{config.steps} loss/recall {losses[0]:.3f} loss/reading "
                f"{losses[1]:.3f} {pace:.2f} s/step ETA {pace * (config.steps - done) / 60:.0f} min"
            )
        if done % config.evaluate_every == 0 or done == config.steps:
            curve.append({"step": done, **_evaluate(model, tokenizer, corpus, config, device)})
            tell(json.dumps(curve[-1]))
        if done % config.checkpoint_every == 0 or done == config.steps:
            _checkpoint(checkpoint, model, optimizers, done, curve)
    _write(out, model, tokenizer, curve)
    return curve[-1]


def _tokenizer(corpus: DemoCorpus, config: DemoModelConfig, kept: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text of any script has tokens, so anything can be copied.

    Trained once and kept beside the checkpoint, whose embeddings mean its tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if kept.exists():
        raw = Tokenizer.from_file(str(kept))
    else:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            special_tokens=["<pad>", "<eos>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        raw.train_from_iterator(corpus.texts(Random(config.seed), 40_000), trainer)
        kept.parent.mkdir(parents=True, exist_ok=True)
        aside = kept.with_suffix(".partial")
        raw.save(str(aside))
        aside.replace(kept)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", model_max_length=512
    )


def _model(config: DemoModelConfig, tokenizer: PreTrainedTokenizerFast) -> Lfm2ForCausalLM:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    return Lfm2ForCausalLM(
        Lfm2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            block_auto_adjust_ff_dim=False,
            num_hidden_layers=2 * config.layer_pairs,
            layer_types=["conv", "full_attention"] * config.layer_pairs,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _optimizers(model: Lfm2ForCausalLM, config: DemoModelConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings, convolutions and norms."""
    import torch

    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=config.muon_learning_rate, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(
            others, lr=config.adam_learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        ),
    ]


def _phase(step: int, config: DemoModelConfig) -> tuple[int, int, bool]:
    """(facts, statements, whether these are wide) of a step: copying first, then facts, then
    copying of anything."""
    if step < config.copying_steps:
        return config.recall_batch, config.reading_batch, False
    if step < config.steps - config.wide_steps:
        return config.late_recall_batch, config.late_reading_batch, False
    return config.wide_recall_batch, config.wide_reading_batch, True


def _schedule(step: int, config: DemoModelConfig) -> float:
    """Warm-up, plateau, then linear decay to zero over the last `decay_share` of the steps."""
    decay_steps = max(1, int(config.steps * config.decay_share))
    return min(1.0, (step + 1) / config.warmup_steps, (config.steps - step) / decay_steps)


def _collate(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], device: torch.device
) -> dict[str, torch.Tensor]:
    """Right-padded ids and mask (B, T), and which tokens are the answer's (its end included)."""
    import torch

    contexts = tokenizer([e.context for e in examples], add_special_tokens=False)["input_ids"]
    answers = tokenizer([" " + e.answer for e in examples], add_special_tokens=False)["input_ids"]
    rows = [c + a + [tokenizer.eos_token_id] for c, a in zip(contexts, answers, strict=True)]
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    is_answer = torch.zeros((len(rows), length), dtype=torch.bool)
    for i, (row, context) in enumerate(zip(rows, contexts, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        is_answer[i, len(context) : len(row)] = True
    batch = {"input_ids": ids, "attention_mask": mask, "is_answer": is_answer}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _answer_logits(
    model: Lfm2ForCausalLM, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, ids) of the answer tokens alone, (N, V) and (N,): the head is paid for them only."""
    hidden_BTD = model.model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).last_hidden_state
    is_answer = batch["is_answer"][:, 1:]
    return model.lm_head(hidden_BTD[:, :-1][is_answer]), batch["input_ids"][:, 1:][is_answer]


def _accumulate(
    model: Lfm2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    parts: int,
    device: torch.device,
) -> float:
    """Backpropagate the mean cross-entropy of the answer tokens, in `parts` of like length."""
    import torch

    ordered = sorted(examples, key=lambda e: len(e.context) + len(e.answer))
    size = -(-len(ordered) // parts)
    batches = [
        _collate(tokenizer, ordered[i : i + size], device) for i in range(0, len(ordered), size)
    ]
    tokens = sum(int(batch["is_answer"].sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits_NV, ids_N = _answer_logits(model, batch)
        loss = torch.nn.functional.cross_entropy(logits_NV.float(), ids_N, reduction="sum") / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


def _evaluate(
    model: Lfm2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    corpus: DemoCorpus,
    config: DemoModelConfig,
    device: torch.device,
) -> dict[str, float]:
    """Greedy exact match (every answer token the argmax) of recall and of reading."""
    import torch

    model.eval()  # type: ignore[no-untyped-call]
    figures = {}
    draws: dict[str, Callable[[Random, int], list[Example]]] = {
        "recall": corpus.recall,
        "reading": corpus.reading,
        "wide_reading": partial(corpus.reading, wide=True),
    }
    for name, draw in draws.items():
        examples = draw(Random(f"{config.seed}:{name}"), config.evaluation_examples)
        right = 0
        for start in range(0, len(examples), 100):
            batch = _collate(tokenizer, examples[start : start + 100], device)
            with torch.no_grad():
                logits_NV, ids_N = _answer_logits(model, batch)
            same = torch.ones_like(batch["is_answer"][:, 1:])
            same[batch["is_answer"][:, 1:]] = logits_NV.argmax(-1) == ids_N
            right += int(same.all(1).sum())
        figures[f"exact_match/{name}"] = right / len(examples)
    model.train()
    return figures


def _checkpoint(
    file: Path,
    model: Lfm2ForCausalLM,
    optimizers: Sequence[torch.optim.Optimizer],
    step: int,
    curve: list[dict[str, float]],
) -> None:
    import torch

    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".partial")
    state: dict[str, Any] = {
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "step": step,
        "curve": curve,
    }
    torch.save(state, aside)
    aside.replace(file)


def _write(
    out: Path,
    model: Lfm2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    curve: list[dict[str, float]],
) -> None:
    import torch

    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(out)  # type: ignore[arg-type]
    tokenizer.save_pretrained(out)
    lines = "".join(json.dumps(point) + "\n" for point in curve)
    (out / "learning_curve.jsonl").write_text(lines, encoding="utf-8")


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
