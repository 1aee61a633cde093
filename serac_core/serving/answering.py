"""Local models that answer: the release's counterfactual model, and a base model that runs here.

Generation keeps a thread of its own busy, batch after batch; the event loop only waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from serac_core.serving.batching import Batcher
from serac_core.serving.completions import Said
from serac_core.serving.errors import AnswerTimeout, ApiError, Internal, TooLong
from serac_core.serving.metrics import Metrics
from serac_core.serving.settings import ServingSettings

if TYPE_CHECKING:
    from serac_core.base.language_model import LanguageModel
    from serac_core.edits.record import Edit
    from serac_core.serving.served import ServedRelease

log = logging.getLogger("serac.serving")


class Answering:
    """Answers from edits and, where the base is a local model, without them.

    Parameters
    ----------
    base:
        The local base model; None where an upstream is the base.
    """

    def __init__(
        self, settings: ServingSettings, metrics: Metrics, base: LanguageModel | None = None
    ) -> None:
        self.base = base
        self._settings = settings
        self._metrics = metrics
        observe = metrics.batches.labels("answer").observe
        self._edited: Batcher[tuple[ServedRelease, int], tuple[Edit, str], Said] = Batcher(
            _answer_from_edits,
            name="answers",
            max_batch=settings.batch_answers,
            max_waiting=settings.waiting_answers,
            observe=observe,
        )
        self._plain: Batcher[tuple[LanguageModel, int], str, Said] = Batcher(
            _answer_plainly,
            name="answers of the base",
            max_batch=settings.batch_answers,
            max_waiting=settings.waiting_answers,
            observe=observe,
        )

    @property
    def waiting(self) -> int:
        return self._edited.waiting + self._plain.waiting

    async def close(self) -> None:
        await self._edited.close()
        await self._plain.close()

    def longest(self, asked: int | None) -> int:
        """Tokens of an answer, of which the client allows so many."""
        most = self._settings.max_new_tokens
        return most if asked is None else min(asked, most)

    async def from_edit(self, release: ServedRelease, edit: Edit, query: str, tokens: int) -> Said:
        """What the release's counterfactual model says.

        Raises
        ------
        Busy, TooLong, AnswerTimeout, Internal
        """
        work = self._edited.submit((release, tokens), [(edit, query)])
        return (await self._timed(work))[0]

    async def from_base(self, query: str, tokens: int) -> Said:
        """What the local base model says; raises as :meth:`from_edit`."""
        assert self.base is not None
        return (await self._timed(self._plain.submit((self.base, tokens), [query])))[0]

    async def _timed(self, work: object) -> list[Said]:
        from serac_core.base.language_model import TextTooLong

        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.answer_timeout):
                said: list[Said] = await work  # type: ignore[misc]
        except ApiError:
            raise
        except TimeoutError:
            raise AnswerTimeout(
                f"no answer in {self._settings.answer_timeout:g} s",
                remedy="try again, ask for fewer tokens, or raise answer_timeout of the server",
            ) from None
        except TextTooLong as error:
            raise TooLong(error.what, remedy=error.remedy) from None
        except Exception as error:
            log.exception("a local model failed")
            raise Internal(
                f"a local model failed ({type(error).__name__})", remedy="the server's log says why"
            ) from error
        self._metrics.seconds.labels("answer").observe(time.perf_counter() - began)
        return said


def _answer_from_edits(
    key: tuple[ServedRelease, int], asked: Sequence[tuple[Edit, str]]
) -> list[Said]:
    release, tokens = key
    model = release.counterfactual
    assert model is not None
    edits, queries = [edit for edit, _ in asked], [query for _, query in asked]
    return _said(model.language_model, queries, model.answer(edits, queries, tokens), tokens)


def _answer_plainly(key: tuple[LanguageModel, int], queries: Sequence[str]) -> list[Said]:
    model, tokens = key
    return _said(model, queries, model.generate(queries, tokens), tokens)


def _said(
    model: LanguageModel, queries: Sequence[str], answers: Sequence[str], tokens: int
) -> list[Said]:
    asked = [model.count_tokens(query) for query in queries]
    made = [model.count_tokens(answer) for answer in answers]
    return [
        Said(text, before, after, cut=after >= tokens)
        for text, before, after in zip(answers, asked, made, strict=True)
    ]
