"""Following where releases come from: fetched, verified, warmed up, put in the place of the old."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from serac_core.errors import SeracError
from serac_core.release.manifest import InvalidRelease
from serac_core.serving.offers import Offer, Offers, UnusableStore
from serac_core.serving.served import NoRelease, ReleaseHolder, ServedRelease

log = logging.getLogger("serac.serving")

OpenRelease = Callable[[Path, str], ServedRelease]
"""Opens a directory under a name: :meth:`ServedRelease.open` with the server's settings."""
Outcome = Literal["swapped", "unchanged", "refused", "unavailable", "unreachable"]
_LONGEST_WAIT = 60.0
_MOST_DOUBLINGS = 8


@dataclass(frozen=True)
class ReloadResult:
    """What came of looking for another release.

    Attributes
    ----------
    outcome:
        swapped: another release answers now; unchanged: the one that should; refused: it is
        damaged or doesn't do what it is for; unavailable: its files can't be had now;
        unreachable: nobody can say which one it should be.
    release:
        The one that answers.
    wanted:
        The one that should.
    error:
        Why it isn't so.
    """

    outcome: Outcome
    release: str | None
    wanted: str | None
    error: SeracError | None = None

    @property
    def changed(self) -> bool:
        return self.outcome == "swapped"

    def as_dict(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "changed": self.changed,
            "release": self.release,
            "wanted": self.wanted,
            "problem": str(self.error) if self.error else None,
        }


@dataclass(frozen=True)
class Refusal:
    """A release that will not be tried again until it changes or somebody asks."""

    release: str
    reason: str
    at: str


@dataclass(frozen=True)
class FollowerStatus:
    """How following goes.

    Attributes
    ----------
    follows:
        The stage and repository, or the directory.
    problem:
        Why the wanted release doesn't answer, or why nobody can say whether it does.
    checked_at, swapped_at:
        ISO 8601; None: not yet.
    swaps, refusals, failures:
        Counted since the start; failures are checks that ended unavailable or unreachable.
    draining:
        Releases that are out of use but for requests that began with them.
    """

    follows: str
    release: str | None
    wanted: str | None
    outcome: Outcome | None
    problem: str | None
    checked_at: str | None
    swapped_at: str | None
    swaps: int
    refusals: int
    failures: int
    draining: int
    refused: tuple[Refusal, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Follower:
    """Keeps a holder at the release that should answer.

    A release is put in place only when it is whole, loaded and has answered its smoke queries;
    until then, and whatever goes wrong, the one before it answers. Where none answers yet and the
    wanted one can't be used, the newest that held the stage before it does, as it does on a server
    that has not been restarted.

    Parameters
    ----------
    interval:
        Seconds between checks, a fifth more or less, so that many servers don't all ask at once.
        After a failure they double, to a minute.
    """

    def __init__(
        self,
        holder: ReleaseHolder,
        offers: Offers,
        open_release: OpenRelease,
        *,
        interval: float = 5.0,
    ) -> None:
        self._holder = holder
        self._offers = offers
        self._open = open_release
        self._interval = interval
        self._working = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._served: Offer | None = None
        self._refused: dict[str, tuple[Refusal, SeracError]] = {}
        self._last: ReloadResult | None = None
        self._checked_at: str | None = None
        self._swapped_at: str | None = None
        self._swaps = self._refusals = self._failures = self._failures_in_a_row = 0

    def start(self) -> None:
        """Check now and then from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._follow, name="serac-follow", daemon=True)
        self._thread.start()

    def stop(self, *, wait: float = 5.0) -> None:
        """Check no more. One that is under way ends with the process, if not within `wait`."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(wait)

    def check(self) -> ReloadResult:
        """Look for another release and use it; one that was refused is not tried again."""
        with self._working:
            return self._told(self._check())

    def reload_now(self) -> ReloadResult:
        """Look at once, and try again what was refused."""
        with self._working:
            self._refused.clear()
            return self._told(self._check())

    def status(self) -> FollowerStatus:
        """How it goes; waits for nothing."""
        last = self._last
        return FollowerStatus(
            follows=self._offers.described,
            release=self._holder.release_name,
            wanted=last.wanted if last else None,
            outcome=last.outcome if last else None,
            problem=str(last.error) if last and last.error else None,
            checked_at=self._checked_at,
            swapped_at=self._swapped_at,
            swaps=self._swaps,
            refusals=self._refusals,
            failures=self._failures,
            draining=self._holder.draining,
            refused=tuple(refusal for refusal, _ in list(self._refused.values())),
        )

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                self.check()
            except Exception:  # whatever it is, the next check may go well
                log.exception("looking for another release failed")
            doublings = min(self._failures_in_a_row, _MOST_DOUBLINGS)
            wait = min(self._interval * 2**doublings, max(self._interval, _LONGEST_WAIT))
            self._stopped.wait(wait * random.uniform(0.8, 1.2))

    def _check(self) -> ReloadResult:
        problem: SeracError | None = None
        try:
            self._offers.refresh()
        except (SeracError, OSError) as error:
            problem = _named(error)
        try:
            offers = self._offers.offers()
        except (SeracError, OSError) as error:
            offers, problem = [], problem or _named(error)
        if not offers:
            return self._result("unreachable", None, problem)
        wanted = offers[0]
        self._refused = {
            offer.key: self._refused[offer.key] for offer in offers if offer.key in self._refused
        }
        if self._served is not None and self._served.key == wanted.key:
            return self._result("unreachable" if problem else "unchanged", wanted, problem)
        outcome, reason = self._use(wanted)
        if outcome != "swapped" and self._served is None:
            for earlier in offers[1:]:
                if self._use(earlier)[0] == "swapped":
                    break
        return self._result(outcome, wanted, reason or problem)

    def _use(self, offer: Offer) -> tuple[Outcome, SeracError | None]:
        """Put a release in place if it is fit to serve."""
        if offer.key in self._refused:
            return "refused", self._refused[offer.key][1]
        try:
            release = self._opened(offer)
        except _NotNow as not_now:
            return "unavailable", not_now.cause
        except SeracError as error:
            refusal = Refusal(offer.name, str(error), _now())
            self._refused[offer.key] = (refusal, error)
            self._refusals += 1
            self._cleared(lambda: self._offers.forget(offer))
            return "refused", error
        self._holder.swap(release)
        self._served = offer
        self._swaps += 1
        self._swapped_at = _now()
        log.info("%s answers now", release.name)
        self._cleared(lambda: self._offers.tidy([offer]))
        return "swapped", None

    def _cleared(self, clear: Callable[[], None]) -> None:
        """Remove what is not needed; what can't be removed is no reason to serve less."""
        try:
            clear()
        except (SeracError, OSError) as error:
            log.warning("%s: %s", self._offers.described, error)

    def _opened(self, offer: Offer) -> ServedRelease:
        """The release, loaded; a copy that was damaged where it lay is fetched once more."""
        folder = self._obtained(offer)
        try:
            return self._open(folder, offer.name)
        except InvalidRelease:
            self._offers.forget(offer)
        return self._open(self._obtained(offer), offer.name)

    def _obtained(self, offer: Offer) -> Path:
        try:
            return self._offers.obtain(offer)
        except InvalidRelease:
            raise
        except (SeracError, OSError) as error:
            raise _NotNow(_named(error)) from error

    def _result(
        self, outcome: Outcome, wanted: Offer | None, error: SeracError | None
    ) -> ReloadResult:
        if outcome == "unreachable" and error is None:
            error = NoRelease("there is no release to serve", remedy="promote one: `serac retrain`")
        name = wanted.name if wanted else None
        return ReloadResult(outcome, self._holder.release_name, name, error)

    def _told(self, result: ReloadResult) -> ReloadResult:
        """Remember a result, and log it if it is news."""
        failed = result.outcome in ("unavailable", "unreachable")
        self._failures += failed
        self._failures_in_a_row = self._failures_in_a_row + 1 if failed else 0
        before = str(self._last.error) if self._last and self._last.error else None
        if result.error is not None and str(result.error) != before:
            log.warning(
                "%s: %s: %s; %s answers",
                self._offers.described,
                result.outcome,
                result.error,
                result.release or "nothing",
            )
        elif result.error is None and before is not None:
            log.info("%s: well again", self._offers.described)
        self._last = result
        self._checked_at = _now()
        return result


class _NotNow(Exception):
    """A release that can't be had at the moment."""

    def __init__(self, cause: SeracError) -> None:
        super().__init__(cause)
        self.cause = cause


def _named(error: SeracError | OSError) -> SeracError:
    if isinstance(error, SeracError):
        return error
    return UnusableStore(str(error), remedy="see that the store can be written to")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
