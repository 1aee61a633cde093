"""The three parts put together: base model, counterfactual model and router as one edited model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from serac_core.edits.record import Edit
from serac_core.errors import SeracError

if TYPE_CHECKING:
    from serac_core.base.chat import ChatUse
    from serac_core.base.language_model import LanguageModel
    from serac_core.counterfactual.model import CounterfactualModel
    from serac_core.scope.router import Decision


class StaleMemory(SeracError):
    """The router names an edit that is not among the live edits."""


class UnknownBaseModel(SeracError):
    """A release doesn't say which base model it edits, and none was named."""


class Routing(Protocol):
    """What :class:`serac_core.scope.router.Router` does."""

    def route(self, queries: Sequence[str]) -> list[Decision]:
        """One decision a query, in their order."""
        ...


@dataclass(frozen=True)
class Answer:
    """What the edited model says to a query, and why.

    Attributes
    ----------
    base_answer:
        What the base model says; None where it wasn't asked.
    edited_answer:
        What is answered: the base's own words out of scope, the counterfactual's in scope.
    decision:
        The route with its score.
    """

    query: str
    base_answer: str | None
    edited_answer: str
    decision: Decision

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the decision's fields beside the answers."""
        decision = self.decision
        return {
            "query": self.query,
            "base_answer": self.base_answer,
            "edited_answer": self.edited_answer,
            "in_scope": decision.in_scope,
            "edit_id": decision.edit_id,
            "score": decision.score,
            "threshold": decision.threshold,
            "nearest_edit_id": decision.nearest_edit_id,
        }


class EditedModel:
    """Routes each query; the base answers it, or the counterfactual model from the edit it met.

    A query out of scope costs the base's generation and nothing of the counterfactual model,
    and is answered by that very generation, token for token; one in scope costs nothing of the
    base. (EasyEdit runs both models on every query and mixes their probabilities.)

    Parameters
    ----------
    edits:
        The live edits that the router's memory was built from.
    """

    def __init__(
        self,
        base: LanguageModel,
        counterfactual: CounterfactualModel,
        router: Routing,
        edits: Sequence[Edit],
    ) -> None:
        self.base = base
        self.counterfactual = counterfactual
        self.router = router
        self._edits = {edit.id: edit for edit in edits}

    @classmethod
    def load(
        cls,
        release: str | Path,
        base: str | None = None,
        *,
        variant: str = "fp32",
        provider: str = "cpu",
        device: str = "auto",
    ) -> EditedModel:
        """The edited model of a release directory.

        Parameters
        ----------
        base:
            Id or path of the base model; by default the one in the release's manifest.
        device:
            Of base and counterfactual model; `provider` is the router's.

        Raises
        ------
        UnknownBaseModel
            And what loading the parts raises.
        """
        from serac_core.base.language_model import LanguageModel
        from serac_core.counterfactual.model import CounterfactualModel
        from serac_core.edits.jsonl import read_edits
        from serac_core.scope.router import Router

        folder = Path(release)
        router = Router.load(folder, variant=variant, provider=provider)
        chat = chat_use(folder)
        model = LanguageModel.load(base or base_model(folder), device, chat=chat)
        return cls(
            model,
            CounterfactualModel.load(folder / "counterfactual", device, chat=chat, base=model),
            router,
            read_edits(folder / "edits.jsonl"),
        )

    def answer(
        self,
        queries: Sequence[str],
        *,
        with_base: bool = False,
        max_new_tokens: int = 24,
        batch_size: int = 64,
    ) -> list[Answer]:
        """Answer each query.

        Parameters
        ----------
        with_base:
            Ask the base model about queries in scope too, to show what the edit changed.

        Raises
        ------
        StaleMemory, TextTooLong
        """
        decisions = self.router.route(queries)
        inside = [i for i, decision in enumerate(decisions) if decision.in_scope]
        matched = [self._edit(decisions[i]) for i in inside]
        asked = [i for i, decision in enumerate(decisions) if with_base or not decision.in_scope]
        from_base = self.base.generate([queries[i] for i in asked], max_new_tokens, batch_size)
        base_answers = dict(zip(asked, from_base, strict=True))
        from_edits = self.counterfactual.answer(
            matched, [queries[i] for i in inside], max_new_tokens, batch_size
        )
        edited = {**base_answers, **dict(zip(inside, from_edits, strict=True))}
        return [
            Answer(query, base_answers.get(i), edited[i], decision)
            for i, (query, decision) in enumerate(zip(queries, decisions, strict=True))
        ]

    def _edit(self, decision: Decision) -> Edit:
        edit = self._edits.get(decision.edit_id or "")
        if edit is None:
            raise StaleMemory(
                f"edit {decision.edit_id} is in the edit memory, but not among the live edits",
                remedy="build the memory from these edits: `serac memory build`",
            )
        return edit


def chat_use(release: Path) -> ChatUse:
    """As the release was evaluated: those that don't say are from before there was the setting."""
    from pydantic import ValidationError

    from serac_core.config import ModelsConfig

    try:
        params = json.loads((release / "manifest.json").read_text(encoding="utf-8"))["params"]
        named = ModelsConfig.model_validate({"chat_template": params["models"]["chat_template"]})
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return "never"
    return named.chat_template


def base_model(release: Path) -> str:
    """The base model that a release's manifest names.

    Raises
    ------
    UnknownBaseModel
    """
    try:
        named = json.loads((release / "manifest.json").read_text(encoding="utf-8"))["base_model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownBaseModel(
            f"{release / 'manifest.json'}: no base model is named there",
            remedy="name one: `serac answer --base ID_OR_PATH`",
        ) from error
    return str(named)
