"""Loading a Hugging Face model and its tokenizer, with an error for each thing that goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from serac_core.errors import SeracError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Device = str  # "auto", "cpu", "cuda", "cuda:1", ...
DType = Literal["auto", "float32", "bfloat16", "float16"]


class ModelNotFound(SeracError):
    """A model is neither a folder here nor a hub model that can be reached."""


class MissingTokenizer(SeracError):
    """A model has no tokenizer beside it."""


class MissingPadToken(SeracError):
    """A tokenizer has neither a pad token nor an end token to pad with."""


class VocabularyMismatch(SeracError):
    """A tokenizer makes tokens that the model beside it has no embedding for."""


class UnreadableModel(SeracError):
    """A model's files are damaged, incomplete, or of no language model."""


class UnknownDevice(SeracError):
    """A device was asked for that this machine doesn't have."""


def load_pretrained(
    name_or_path: str | Path, device: Device = "auto", dtype: DType = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer, ready to answer.

    What is already here (a folder, or the hub's cache) is used without asking the network.
    A tokenizer without a pad token pads with its end token: padding is always masked, so the
    choice changes nothing.

    Parameters
    ----------
    name_or_path:
        A folder, or the id of a hub model. A name whose first part is a folder here is a path.
    device:
        `auto` takes CUDA where there is one.
    dtype:
        `auto` computes in float32 on a CPU, which is slow or inexact at anything less, and in
        the stored type on CUDA.

    Raises
    ------
    ModelNotFound, UnreadableModel, MissingTokenizer, MissingPadToken, VocabularyMismatch,
    UnknownDevice
    """
    import torch

    name = str(name_or_path)
    chosen_device = _device(device)
    chosen_dtype = _dtype(dtype, chosen_device)
    config = _config(name)
    tokenizer = _tokenizer(name)
    model: Any = _model(name, config, chosen_dtype)
    _require_embeddings(name, tokenizer, model.get_input_embeddings().weight.shape[0])
    model.to(torch.device(chosen_device))
    return model.eval(), tokenizer


def check_pretrained(name_or_path: str | Path) -> None:
    """Check a model's configuration and tokenizer without reading its weights.

    Raises
    ------
    ModelNotFound, UnreadableModel, MissingTokenizer, MissingPadToken, VocabularyMismatch
    """
    name = str(name_or_path)
    text = _config(name).get_text_config()
    tokenizer = _tokenizer(name)
    if isinstance(rows := getattr(text, "vocab_size", None), int):
        _require_embeddings(name, tokenizer, rows)


def stored_dtype(name_or_path: str | Path) -> torch.dtype:
    """The numeric type that a model's weights are stored in; float32 where it doesn't say.

    Raises
    ------
    ModelNotFound, UnreadableModel
    """
    import torch

    named = _config(str(name_or_path)).dtype
    return named if isinstance(named, torch.dtype) else torch.float32


def _device(device: Device) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not device.startswith("cuda"):
        raise UnknownDevice(
            f"device {device!r} is not known", remedy="ask for `auto`, `cpu` or `cuda`"
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UnknownDevice(
            f"device {device!r}: PyTorch sees no CUDA device", remedy="ask for `cpu` or `auto`"
        )
    return device


def _dtype(dtype: DType, device: str) -> torch.dtype | Literal["auto"]:
    import torch

    if dtype != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[dtype]
    return torch.float32 if device == "cpu" else "auto"


def _config(name: str) -> PretrainedConfig:
    from transformers import AutoConfig

    folder = Path(name)
    if not folder.is_dir():
        parts = folder.parts
        if not 1 <= len(parts) <= 2 or parts[0] in (".", "..", "~") or Path(parts[0]).exists():
            raise ModelNotFound(
                f"{name}: no such folder",
                remedy="correct the path in params.yaml or on the command line",
            )
    elif not (folder / "config.json").is_file():
        raise UnreadableModel(
            f"{name}: a folder without config.json, so no model",
            remedy="name the folder that `save_pretrained` wrote",
        )
    try:
        config: PretrainedConfig = _here_first(AutoConfig, name)
    except Exception as error:
        if folder.is_dir():
            raise UnreadableModel(
                f"{name}: config.json: {error}", remedy="fetch the model again"
            ) from error
        raise ModelNotFound(
            f"{name}: no folder here, and no hub model that can be reached",
            remedy="correct the id, or fetch the model to a folder and name that",
        ) from error
    return config


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = _here_first(AutoTokenizer, name)
    except Exception as error:
        raise MissingTokenizer(
            f"{name}: no tokenizer that can be read: {error}",
            remedy="save the model's tokenizer beside it (`tokenizer.save_pretrained`)",
        ) from error
    if len(tokenizer) == 0 or not tokenizer("a", add_special_tokens=False)["input_ids"]:
        raise MissingTokenizer(
            f"{name}: the tokenizer makes no tokens",
            remedy="save the model's tokenizer beside it (`tokenizer.save_pretrained`)",
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise MissingPadToken(
                f"{name}: the tokenizer has neither a pad token nor an end token",
                remedy="set `pad_token` in its tokenizer_config.json to any token it has",
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _model(
    name: str, config: PretrainedConfig, dtype: torch.dtype | Literal["auto"]
) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        with _no_progress_bar():
            model, found = _here_first(kind, name, dtype=dtype, output_loading_info=True)
    except Exception as error:
        raise UnreadableModel(
            f"{name}: {type(error).__name__}: {error}",
            remedy="the folder needs the whole weights of a causal or seq2seq language model",
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise UnreadableModel(
            f"{name}: {len(missing)} weights are not in its files, first {missing[0]}",
            remedy="name a causal or seq2seq language model, not a bare encoder or an adapter",
        )
    loaded: PreTrainedModel = model
    return loaded


def _require_embeddings(name: str, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    if len(tokenizer) > rows:
        raise VocabularyMismatch(
            f"{name}: the tokenizer makes {len(tokenizer)} tokens, the model knows {rows}",
            remedy="put the tokenizer that the model was trained with beside it, or resize the "
            "model's embeddings and train them",
        )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Without the bar that transformers draws for weights that are read in a second."""
    from transformers.utils import logging

    bars: Any = logging  # untyped
    drawn = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            bars.enable_progress_bar()


def _here_first(kind: Any, name: str, **options: Any) -> Any:
    """`from_pretrained`, asking the network only for what isn't here."""
    try:
        return kind.from_pretrained(name, local_files_only=True, **options)
    except OSError:
        if Path(name).is_dir():
            raise
        return kind.from_pretrained(name, **options)
