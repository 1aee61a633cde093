"""A tokenizer's chat template: how a query becomes a user's turn, and where its answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from serac_core.errors import SeracError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ChatUse = Literal["auto", "always", "never"]

_ANSWER = "Yes"
# What templates ask for beside the turns. The day is Llama's own where it is told none: an answer
# must not depend on the day that it is asked on. Reasoning would outlast the longest answer.
_SETTINGS = {"date_string": "26 Jul 2024", "enable_thinking": False}


class MissingChatTemplate(SeracError):
    """A chat template was asked for, and the tokenizer has none."""


class UnusableChatTemplate(SeracError):
    """A chat template can't put a single question of a user into words."""


class Chat:
    """Puts each prompt into a user's turn, and opens the model's.

    Control tokens written in a prompt are read as plain text: no query can pass for a turn.

    Attributes
    ----------
    lead:
        White space between the opened turn and its answer, in the template's manner.
    end_id:
        The token that ends the model's turn; None where the template names none.

    Raises
    ------
    UnusableChatTemplate
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self._tokenizer: Any = tokenizer  # the stubs know no batches of conversations
        self._name = name
        self.lead, self.end_id = self._answer_frame()

    def texts(self, prompts: Sequence[str]) -> list[str]:
        """Each prompt as the model reads it, special tokens included."""
        return [self._render([_turn("user", prompt)], opened=True) for prompt in prompts]

    def token_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The tokens of :meth:`texts`, all of them: no start token belongs before."""
        ids: list[list[int]] = self._tokenizer.apply_chat_template(
            [[_turn("user", prompt)] for prompt in prompts],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            sanitize_control_tokens=True,
            **_SETTINGS,
        )
        return ids

    def _answer_frame(self) -> tuple[str, int | None]:
        asked = [_turn("user", "Is it?")]
        opened = self._render(asked, opened=True)
        try:
            whole = self._render([*asked, _turn("assistant", _ANSWER)], opened=False)
        except UnusableChatTemplate:
            return "", None  # one that only asks
        answered, _, ending = whole.rpartition(_ANSWER)
        lead = answered.removeprefix(opened)
        added = self._tokenizer.added_tokens_decoder
        ending_ids = self._tokenizer(ending, add_special_tokens=False)["input_ids"]
        ends = (token for token in ending_ids if token in added and added[token].special)
        return ("" if lead.strip() else lead), next(ends, None)

    def _render(self, turns: list[dict[str, str]], *, opened: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns, add_generation_prompt=opened, tokenize=False, **_SETTINGS
                )
            )
        except Exception as error:  # a template is a program, and raises what it likes
            raise UnusableChatTemplate(
                f"{self._name}: its chat template fails: {type(error).__name__}: {error}",
                remedy="mend the template, or set `models.chat_template` to `never`",
            ) from error


def find_chat(tokenizer: PreTrainedTokenizerBase, use: ChatUse, name: str) -> Chat | None:
    """The chat template that a model's prompts go through, if any.

    Parameters
    ----------
    use:
        `auto`: where the tokenizer has one; `always`: one that has none is an error; `never`.

    Raises
    ------
    MissingChatTemplate, UnusableChatTemplate
    """
    if use == "never":
        return None
    if tokenizer.chat_template:
        return Chat(tokenizer, name)
    if use == "always":
        raise MissingChatTemplate(
            f"{name}: its tokenizer has no chat template",
            remedy="set `models.chat_template` to `auto`, or name a model that has one",
        )
    return None


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
