"""A release in use: opened with proof that it works, changed for another, freed once unused."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from serac_core.edits.record import Edit
from serac_core.errors import SeracError
from serac_core.release.manifest import verify_release

if TYPE_CHECKING:
    from serac_core.base.language_model import LanguageModel
    from serac_core.counterfactual.model import CounterfactualModel
    from serac_core.scope.router import Router

SMOKE_QUERIES = 32
"""Live edits whose prompts are routed before a release is served."""
_LEAST_FOUND = 0.5
_SMOKE_TOKENS = 4


class UnservableRelease(SeracError):
    """A release agrees with its manifest and yet can't be loaded."""


class SmokeQueriesFailed(SeracError):
    """A release doesn't route the prompts of its own edits to them."""


class ReleaseClosed(SeracError):
    """A release was used after it was given up."""


class NoRelease(SeracError):
    """There is no release to answer with yet."""


class ServedRelease:
    """The parts of a release directory, loaded. Make one with :meth:`open`.

    Attributes
    ----------
    name:
        `serac@v1.4.0`, or the folder's name.
    manifest:
        What manifest.json says.
    edits:
        The live edits by id.
    variant, provider:
        Of the router's encoder.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        manifest: dict[str, Any],
        router: Router,
        edits: Mapping[str, Edit],
        counterfactual: CounterfactualModel | None,
        *,
        variant: str,
        provider: str,
    ) -> None:
        self.folder = folder
        self.name = name
        self.manifest = manifest
        self.edits = edits
        self.variant = variant
        self.provider = provider
        self._router: Router | None = router
        self._counterfactual = counterfactual

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        name: str | None = None,
        variant: str = "fp32",
        provider: str = "cpu",
        threads: int | None = None,
        device: str = "auto",
        with_counterfactual: bool = True,
        base: LanguageModel | None = None,
    ) -> Self:
        """Verify a release directory, load it, and see that it does what it is for.

        Parameters
        ----------
        threads:
            Of ONNX Runtime; None: as many as it thinks right.
        device:
            Of the counterfactual model; `provider` is the router's.
        with_counterfactual:
            Load the counterfactual model; not needed where an upstream answers from the edit.
        base:
            The loaded base model, which an in-context release answers with.

        Raises
        ------
        InvalidRelease
            A file is missing, altered or not listed, or the schema is another.
        SmokeQueriesFailed, UnservableRelease
            And what loading the parts raises, all of them a :class:`SeracError`.
        """
        from serac_core.counterfactual.model import CounterfactualModel
        from serac_core.editing import chat_use
        from serac_core.edits.jsonl import read_edits
        from serac_core.scope.router import Router

        folder = Path(folder).absolute()
        name = name or folder.name
        manifest = verify_release(folder).model_dump(mode="json")
        try:
            opened = cls(
                folder,
                name,
                manifest,
                Router.load(folder, variant, provider, threads),
                {edit.id: edit for edit in read_edits(folder / "edits.jsonl")},
                CounterfactualModel.load(
                    folder / "counterfactual", device, chat=chat_use(folder), base=base
                )
                if with_counterfactual
                else None,
                variant=variant,
                provider=provider,
            )
            opened._smoke()
        except SeracError:
            raise
        except Exception as error:  # torch, ONNX Runtime and tokenizers raise what they like
            raise UnservableRelease(
                f"{name} in {folder} can't be loaded: {type(error).__name__}: {error}",
                remedy="release it again with the version of serac that serves it",
            ) from error
        return opened

    @property
    def router(self) -> Router:
        """Raises ReleaseClosed once the release is closed."""
        if self._router is None:
            raise self._closed()
        return self._router

    @property
    def counterfactual(self) -> CounterfactualModel | None:
        """None where it was not wanted. Raises ReleaseClosed once the release is closed."""
        if self._router is None:
            raise self._closed()
        return self._counterfactual

    @property
    def is_closed(self) -> bool:
        return self._router is None

    def close(self) -> None:
        """Let go of session, memory and model, which go at once: none of them holds itself, and
        nothing may be using them."""
        self._router = self._counterfactual = None
        self.edits = {}
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _closed(self) -> ReleaseClosed:
        return ReleaseClosed(
            f"{self.name} is closed", remedy="take a lease: `with holder.current() as release`"
        )

    def _smoke(self) -> None:
        """Route prompts of live edits, which warms everything up, and an empty query.

        The gate lets a few edits be unroutable, so half of the prompts suffice: a release that is
        put together wrongly finds none. A prompt may go to another edit that says the same, but
        its own must be in scope too.

        Raises
        ------
        SmokeQueriesFailed
        """
        if len(self.router.memory) != len(self.edits):
            raise self._failed(
                f"{len(self.edits)} edits are live, {len(self.router.memory)} are in its memory"
            )
        asked = _spread(list(self.edits.values()), SMOKE_QUERIES)
        prompts = [edit.prompt for edit in asked]
        decisions = self.router.route(["", *prompts])
        if decisions[0].in_scope:
            raise self._failed(f"an empty query is in scope of {decisions[0].edit_id}")
        strange = [d for d in decisions if d.in_scope and d.edit_id not in self.edits]
        if strange:
            raise self._failed(
                f"{strange[0].query!r} goes to {strange[0].edit_id}, not a live edit"
            )
        lost = [
            edit
            for edit, candidates in zip(
                asked, self.router.candidates(prompts, SMOKE_QUERIES), strict=True
            )
            if not any(
                found.edit_id == edit.id and found.score >= self.router.threshold
                for found in candidates
            )
        ]
        if asked and len(lost) > _LEAST_FOUND * len(asked):
            raise self._failed(
                f"{len(lost)} of {len(asked)} prompts of live edits are out of their scope, first "
                f"{lost[0].id} ({lost[0].prompt!r})"
            )
        if self._counterfactual is not None and asked:
            self._counterfactual.answer(asked[:1], prompts[:1], _SMOKE_TOKENS)

    def _failed(self, what: str) -> SmokeQueriesFailed:
        return SmokeQueriesFailed(
            f"{self.name}: {what}",
            remedy="its memory, calibration or edits are of another release: release it again",
        )


class _Held:
    """A release with the number of those who use it."""

    def __init__(self, release: ServedRelease) -> None:
        self.release = release
        self.leases = 0
        self.retired = False
        self.closed = threading.Event()

    def close(self) -> None:
        try:
            self.release.close()
        finally:
            self.closed.set()


class ReleaseHolder:
    """The release that answers now. One is put in the place of another at once; the old one is
    closed when the last of those who had begun with it are done.

    Leases are counted, not tied to a thread or task; taking one waits for nothing.
    """

    def __init__(self, release: ServedRelease | None = None) -> None:
        self._lock = threading.Lock()
        self._now = _Held(release) if release else None
        self._draining: set[_Held] = set()

    @contextmanager
    def current(self) -> Iterator[ServedRelease]:
        """The release of now, which stays loaded until the block ends.

        Raises
        ------
        NoRelease
        """
        with self._lock:
            held = self._now
            if held is not None:
                held.leases += 1
        if held is None:
            raise NoRelease("no release is loaded", remedy="see /readyz, or wait for the first one")
        try:
            yield held.release
        finally:
            with self._lock:
                held.leases -= 1
                unused = held.retired and not held.leases
            if unused:
                # Freeing takes a while, and whoever ends the last lease may be the event loop.
                threading.Thread(target=self._close, args=(held,), name="serac-close").start()

    def swap(self, new: ServedRelease | None, *, wait: float | None = 0.0) -> bool:
        """Answer with another release from now on (None: with none any more).

        Parameters
        ----------
        wait:
            Seconds to wait for the old one to be closed; None: however long it takes.

        Returns
        -------
        bool
            Whether the old one is closed, or there was none.
        """
        with self._lock:
            old = self._now
            self._now = _Held(new) if new else None
            if old is None:
                return True
            old.retired = True
            self._draining.add(old)
            unused = not old.leases
        if unused:
            self._close(old)
        return old.closed.wait(wait)

    def close(self, *, wait: float | None = None) -> bool:
        """Give up the release and wait until it and those before it are closed."""
        deadline = None if wait is None else time.monotonic() + wait
        with self._lock:
            draining = list(self._draining)
        done = self.swap(None, wait=wait)
        for held in draining:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            done = held.closed.wait(left) and done
        return done

    @property
    def release_name(self) -> str | None:
        """Of the release of now; None where there is none."""
        held = self._now
        return held.release.name if held else None

    @property
    def draining(self) -> int:
        """Releases that are out of use but for what began before."""
        return len(self._draining)

    def _close(self, held: _Held) -> None:
        held.close()
        with self._lock:
            self._draining.discard(held)


def _spread(edits: Sequence[Edit], count: int) -> list[Edit]:
    """At most so many edits, evenly over the whole, the first and the last among them."""
    if len(edits) <= count:
        return list(edits)
    return [edits[n * (len(edits) - 1) // (count - 1)] for n in range(count)]
