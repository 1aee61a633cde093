"""A language model that answers and scores, whatever its architecture.

Shapes: B rows, T tokens, K answer tokens, V vocabulary.

Prompt and answer meet in one place, :meth:`LanguageModel.encode_pairs`; training, scoring and
generation all see the same tokens there. Where the tokenizer has a chat template, a prompt is what
the template makes of it, special tokens included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from serac_core.base.chat import ChatUse, find_chat
from serac_core.base.loading import Device, DType, load_pretrained
from serac_core.errors import SeracError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Where a configuration says how far positions go, by family; T5 has no such bound.
_POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")


class EmptyTarget(SeracError):
    """A target has no token: nothing to learn or score."""


class TextTooLong(SeracError):
    """A text has more tokens than the model reads; nothing is ever cut silently."""


@dataclass(frozen=True)
class TokenScore:
    """What the model predicts at each token of a target, given the right tokens before it."""

    target_ids: tuple[int, ...]
    predicted_ids: tuple[int, ...]

    @property
    def accuracy(self) -> float:
        """Share of the target's tokens that are the argmax (EasyEdit's accuracy)."""
        pairs = zip(self.target_ids, self.predicted_ids, strict=True)
        return sum(target == predicted for target, predicted in pairs) / len(self.target_ids)

    @property
    def exact(self) -> bool:
        """Whether every token is the argmax."""
        return self.target_ids == self.predicted_ids


@dataclass(frozen=True)
class EncodedPair:
    """A prompt and its answer in tokens.

    For a causal model `answer` follows `prompt` in one row; for a seq2seq model it is what the
    decoder says. `answer[start:stop]` is the target itself: what surrounds it are the start and
    end tokens that the tokenizer adds.
    """

    prompt: list[int]
    answer: list[int]
    start: int
    stop: int


def printable_pieces(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the tokens of the vocabulary stand for; no special, blank or broken characters."""
    special = set(tokenizer.all_special_ids)
    ids = (token for token in range(len(tokenizer)) if token not in special)
    texts = (str(tokenizer.decode([token])) for token in ids)
    return [text for text in texts if text.strip() and text.isprintable() and "\ufffd" not in text]


class LanguageModel:
    """A causal or seq2seq Hugging Face model with its tokenizer.

    Nothing depends on the model's name or family, only on its configuration and on what it is
    seen to do. Answers are greedy and don't depend on what else is in the batch (beyond the
    rounding of the numeric type: float32 on a CPU).

    Parameters
    ----------
    chat:
        Whether prompts go through the tokenizer's chat template: `auto` where it has one,
        `always` (an error without one) or `never`.

    Raises
    ------
    MissingChatTemplate, UnusableChatTemplate
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str = "model",
        chat: ChatUse = "auto",
    ) -> None:
        self.model: Any = model  # the stubs of transformers know neither generate nor to
        self.tokenizer = tokenizer
        self.name = name
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        self.max_tokens = _position_limit(model.config)
        self.chat = find_chat(tokenizer, chat, name)
        self._before, self._after = _frame(tokenizer)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        device: Device = "auto",
        dtype: DType = "auto",
        chat: ChatUse = "auto",
    ) -> Self:
        """Load from a folder or the hub; see :func:`serac_core.base.loading.load_pretrained`."""
        model, tokenizer = load_pretrained(name_or_path, device, dtype)
        return cls(model, tokenizer, str(name_or_path), chat)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        named = getattr(self.model.generation_config, "eos_token_id", None)
        ids = named if isinstance(named, list) else [named]
        own = (self.tokenizer.eos_token_id, self.chat.end_id if self.chat else None)
        return frozenset(i for i in (*ids, *own) if i is not None)

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int = 24, batch_size: int = 64
    ) -> list[str]:
        """Greedy answers, in the order of the prompts, stripped and cut at the first line end.

        Parameters
        ----------
        prompts:
            Any text. An empty prompt is read as the start token alone.

        Raises
        ------
        TextTooLong
            A prompt and its longest answer don't fit; names the first such prompt.
        """
        import torch

        rows = self.prompt_rows(prompts, max_new_tokens)
        answers = [""] * len(rows)
        with torch.inference_mode():
            for batch in self._batches([len(row) for row in rows], batch_size):
                made_BK = self._generate_ids([rows[i] for i in batch], max_new_tokens).tolist()
                for i, made in zip(batch, made_BK, strict=True):
                    answers[i] = self._decode(made)
        return answers

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special ones left out."""
        return len(self._token_ids([text])[0])

    def prompt_rows(self, prompts: Sequence[str], max_new_tokens: int = 0) -> list[list[int]]:
        """The tokens that each prompt is answered from.

        Raises
        ------
        TextTooLong
            A prompt and `max_new_tokens` after it don't fit; names the first such prompt.
        """
        rows = [self._prompt_ids(ids) for ids in self._heads(prompts)[1]]
        room = 0 if self.is_encoder_decoder else max_new_tokens
        for prompt, row in zip(prompts, rows, strict=True):
            self._check_length(prompt, len(row) + room)
        return rows

    def score(
        self, prompts: Sequence[str], targets: Sequence[str], batch_size: int = 64
    ) -> list[TokenScore]:
        """Teacher-forced prediction of each target after its prompt.

        Logits are read one position before the token that they predict. (EasyEdit compares them
        unshifted for causal models, which logs about 0.01 whatever the model knows.)

        Raises
        ------
        EmptyTarget, TextTooLong
        """
        import torch

        pairs = self.encode_pairs(prompts, targets)
        lengths = [len(pair.prompt) + len(pair.answer) for pair in pairs]
        order = sorted(range(len(pairs)), key=lambda i: -lengths[i])
        scores: dict[int, TokenScore] = {}
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                inputs = self.collate([pairs[i] for i in chosen])
                labels_BK = inputs.pop("labels")
                predicted_BK = answer_logits(self.model, inputs, labels_BK.shape[1]).argmax(-1)
                for i, predicted, label in zip(
                    chosen, predicted_BK.tolist(), labels_BK.tolist(), strict=True
                ):
                    pair = pairs[i]
                    first = next(k for k, token in enumerate(label) if token != -100)
                    span = slice(first + pair.start, first + pair.stop)
                    target_ids = tuple(pair.answer[pair.start : pair.stop])
                    scores[i] = TokenScore(target_ids, tuple(predicted[span]))
        return [scores[i] for i in range(len(pairs))]

    def encode_pairs(self, prompts: Sequence[str], targets: Sequence[str]) -> list[EncodedPair]:
        """Tokens of each prompt and of its answer, the end token included.

        Causal: the text is prompt, one space (or what a chat template has there), target; the
        answer is what the text has beyond the prompt's own tokens, so no start token ever counts
        as part of an answer. Seq2seq: the decoder's text is the target alone.

        Raises
        ------
        EmptyTarget, TextTooLong
        """
        texts, plain = self._heads(prompts)
        if self.is_encoder_decoder:
            targets_ids = self._token_ids([target.strip() for target in targets])
        else:
            lead = " " if self.chat is None else self.chat.lead
            spaced = [lead + target.strip() for target in targets]
            whole = self._token_ids([p + t for p, t in zip(texts, spaced, strict=True)])
            alone = self._token_ids(spaced)
            targets_ids = [
                text[len(head) :] if text[: len(head)] == head else tail
                for text, head, tail in zip(whole, plain, alone, strict=True)
            ]
        pairs = []
        for prompt, target, head, ids in zip(prompts, targets, plain, targets_ids, strict=True):
            if not target.strip() or not ids:
                raise EmptyTarget(
                    f"the target after {_shorten(prompt)!r} is empty",
                    remedy="give every edit and probe an answer",
                )
            pair = self._pair(head, ids)
            longest = (
                max(len(pair.prompt), len(pair.answer))
                if self.is_encoder_decoder
                else len(pair.prompt) + len(pair.answer)
            )
            self._check_length(f"{prompt} {target}", longest)
            pairs.append(pair)
        return pairs

    def collate(
        self, pairs: Sequence[EncodedPair], device: str | None = None
    ) -> dict[str, torch.Tensor]:
        """The model's inputs (right-padded and masked, which no causal row can see) and `labels`.

        `labels` is (B, K), -100 where nothing is to be predicted; for a causal model its K
        columns are the last of the row's, as :func:`answer_logits` returns their logits. All lie
        on `device`, or else where the model does.
        """
        pad = self.tokenizer.pad_token_id
        if self.is_encoder_decoder:
            ids_BT, mask_BT = self._pad([pair.prompt for pair in pairs], pad, device)
            labels_BK, _ = self._pad([pair.answer for pair in pairs], -100, device)
            shift = self.model.prepare_decoder_input_ids_from_labels
            return {
                "input_ids": ids_BT,
                "attention_mask": mask_BT,
                "decoder_input_ids": shift(labels=labels_BK),
                "labels": labels_BK,
            }
        ids_BT, mask_BT = self._pad([p.prompt + p.answer for p in pairs], pad, device)
        masked = [[-100] * len(p.prompt) + p.answer for p in pairs]
        labels_BT, _ = self._pad(masked, -100, device)
        first = min(len(pair.prompt) for pair in pairs)
        return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT[:, first:]}

    @cached_property
    def pads_exactly(self) -> bool:
        """Whether a left-padded row is computed as it is alone; tried once, on this model.

        False for models whose recurrent or convolutional layers see the padding: their prompts
        are batched by equal length instead.
        """
        import torch

        short = self._prompt_ids(self._token_ids(["a b"])[0])
        long = (short * 4)[: max(len(short) + 3, 2 * len(short))]
        with torch.inference_mode():
            alone, together = (
                self._generate(rows, 3, output_logits=True, return_dict_in_generate=True)
                for rows in ([short], [short, long])
            )
        exact = self.model.dtype == torch.float32
        for one, two in zip(alone.logits, together.logits, strict=False):
            spread = float(one[0].abs().max())
            if float((one[0] - two[0]).abs().max()) > (1e-4 if exact else 3e-2) * max(spread, 1.0):
                return False
            if int(one[0].argmax()) != int(two[0].argmax()):
                return True  # a tie within rounding: what follows is not comparable
        return True

    def _batches(self, lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
        """Rows of like length together; of equal length where padding would be seen."""
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        same_only = len(set(lengths)) > 1 and not (self.is_encoder_decoder or self.pads_exactly)
        batch: list[int] = []
        for i in order:
            if batch and (
                len(batch) == batch_size or (same_only and lengths[i] != lengths[batch[0]])
            ):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _generate_ids(self, rows: Sequence[list[int]], max_new_tokens: int) -> torch.Tensor:
        made_BT: torch.Tensor = self._generate(rows, max_new_tokens)
        return made_BT if self.is_encoder_decoder else made_BT[:, max(map(len, rows)) :]

    def _generate(self, rows: Sequence[list[int]], max_new_tokens: int, **options: Any) -> Any:
        from transformers import GenerationConfig, StoppingCriteriaList

        pad = self.tokenizer.pad_token_id
        ids_BT, mask_BT = self._pad(rows, pad, left=not self.is_encoder_decoder)
        own = self.model.generation_config
        # Special tokens are the model's; sampling, penalties and lengths that its makers
        # recommend are not: an answer is the argmax at every token.
        kept = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")
        make_config: Any = GenerationConfig
        config = make_config(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            eos_token_id=sorted(self.end_ids) or None,
            **{name: getattr(own, name, None) for name in kept},
            **options,
        )
        prompt_length = 1 if self.is_encoder_decoder else ids_BT.shape[1]
        line_end = _LineEnd(self.tokenizer, prompt_length)
        self.model.generation_config, saved = config, own
        try:
            return self.model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([line_end]),
            )
        finally:
            self.model.generation_config = saved

    def _decode(self, made: Sequence[int]) -> str:
        ends = self.end_ids
        first = int(self.is_encoder_decoder)  # the decoder's start token, often an end token too
        stop = next((k for k, t in enumerate(made) if k >= first and t in ends), len(made))
        text = self.tokenizer.decode(
            list(made[first:stop]), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        lines = str(text).strip().splitlines()
        return lines[0].strip() if lines else ""

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens without special ones; lone surrogates, which are no text, become `?`."""
        if not texts:
            return []
        safe = [_without_surrogates(text) for text in texts]
        ids: list[list[int]] = self.tokenizer(safe, add_special_tokens=False)["input_ids"]
        return ids

    def _heads(self, prompts: Sequence[str]) -> tuple[list[str], list[list[int]]]:
        """Each prompt as it stands before its answer, in text and in tokens."""
        if self.chat is None or not prompts:
            return list(prompts), self._token_ids(prompts)
        safe = [_without_surrogates(prompt) for prompt in prompts]
        return self.chat.texts(safe), self.chat.token_ids(safe)

    def _prompt_ids(self, ids: list[int]) -> list[int]:
        """A prompt as it is generated from: start tokens, never an end token after it (causal).
        A chat template has put its own there."""
        if self.chat is not None:
            return ids
        row = self._before + ids + (self._after if self.is_encoder_decoder else [])
        if row:
            return row
        start = self.tokenizer.bos_token_id
        return [self.tokenizer.eos_token_id if start is None else start]

    def _pair(self, head: list[int], target: list[int]) -> EncodedPair:
        prompt = self._prompt_ids(head)
        own_end = self.chat.end_id if self.chat else None
        end = self.tokenizer.eos_token_id if own_end is None else own_end
        ending = [] if end is None else [end]
        if not self.is_encoder_decoder:
            return EncodedPair(prompt, target + ending, 0, len(target))
        start = len(self._before)
        answer = self._before + target + (self._after or ending)
        return EncodedPair(prompt, answer, start, start + len(target))

    def _check_length(self, text: str, tokens: int) -> None:
        if self.max_tokens is not None and tokens > self.max_tokens:
            raise TextTooLong(
                f"{_shorten(text)!r} needs {tokens} tokens with its answer; "
                f"{self.name} reads {self.max_tokens}",
                remedy="shorten it, or use a model with more positions",
            )

    def _pad(
        self,
        rows: Sequence[list[int]],
        filler: int,
        device: str | None = None,
        *,
        left: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and their mask as (B, T) tensors on the device, or else the model's."""
        import torch

        width = max(map(len, rows))
        gaps = [width - len(row) for row in rows]
        ids = [
            [filler] * g + r if left else r + [filler] * g for r, g in zip(rows, gaps, strict=True)
        ]
        mask = [
            [0] * g + [1] * len(r) if left else [1] * len(r) + [0] * g
            for r, g in zip(rows, gaps, strict=True)
        ]
        where = device or self.model.device
        return torch.tensor(ids, device=where), torch.tensor(mask, device=where)


def answer_logits(model: Any, inputs: dict[str, torch.Tensor], answer_columns: int) -> torch.Tensor:
    """Logits (B, K, V) aligned with the K columns of :meth:`LanguageModel.collate`'s labels.

    The head is computed for those columns only where the model can (`logits_to_keep`).
    """
    if "decoder_input_ids" in inputs:
        logits_BKV: torch.Tensor = model(**inputs).logits
        return logits_BKV
    logits_BTV: torch.Tensor = model(
        **inputs, **({"logits_to_keep": answer_columns + 1} if _can_keep(model) else {})
    ).logits
    return logits_BTV[:, -answer_columns - 1 : -1]


def _can_keep(model: Any) -> bool:
    import inspect

    inner = getattr(model, "module", model)  # as wrapped for several processes
    if hasattr(inner, "get_base_model"):  # and around an adapter
        inner = inner.get_base_model()
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


class _LineEnd:
    """Ends a row when its answer has a line end after its first visible character."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_length: int) -> None:
        self._tokenizer = tokenizer
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        import torch

        made = input_ids[:, self._prompt_length :]
        last = self._tokenizer.batch_decode(made[:, -1:])
        done = [
            "\n" in text
            and "\n" in str(self._tokenizer.decode(row, skip_special_tokens=True)).lstrip()
            for text, row in zip(last, made, strict=True)
        ]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed: list[int] = tokenizer("a")["input_ids"]
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return framed[:start], framed[start + len(plain) :]
    return [], []


def _position_limit(config: Any) -> int | None:
    text = config.get_text_config()
    named = (getattr(text, key, None) for key in _POSITION_KEYS)
    limits = [limit for limit in named if isinstance(limit, int) and limit > 0]
    return min(limits) if limits else None


def _without_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
