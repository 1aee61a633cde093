"""Base models: any Hugging Face causal or seq2seq model, and the built-in demo model.

The names are imported when first used, so that importing the package stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serac_core.base.chat import MissingChatTemplate, UnusableChatTemplate
    from serac_core.base.language_model import (
        EmptyTarget,
        LanguageModel,
        TextTooLong,
        TokenScore,
    )
    from serac_core.base.loading import (
        MissingPadToken,
        MissingTokenizer,
        ModelNotFound,
        UnreadableModel,
        VocabularyMismatch,
    )

_HOMES = {
    "EmptyTarget": "language_model",
    "LanguageModel": "language_model",
    "MissingChatTemplate": "chat",
    "MissingPadToken": "loading",
    "MissingTokenizer": "loading",
    "ModelNotFound": "loading",
    "TextTooLong": "language_model",
    "TokenScore": "language_model",
    "UnreadableModel": "loading",
    "UnusableChatTemplate": "chat",
    "VocabularyMismatch": "loading",
}

__all__ = [
    "EmptyTarget",
    "LanguageModel",
    "MissingChatTemplate",
    "MissingPadToken",
    "MissingTokenizer",
    "ModelNotFound",
    "TextTooLong",
    "TokenScore",
    "UnreadableModel",
    "UnusableChatTemplate",
    "VocabularyMismatch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
