"""Where a server's releases come from: a stage of the registry, or a directory."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serac_core.edits.atomic import folder_aside
from serac_core.errors import SeracError
from serac_core.progress import Say
from serac_core.release.copies import ReleaseUnavailable, pull_release
from serac_core.release.manifest import MANIFEST, InvalidRelease, verify_release
from serac_core.release.registry import PROD, RELEASE, Version, read_registry
from serac_core.tether import tether_descendants
from serac_core.workspace.commands import git, run_git

_GIT_TIMEOUT = 60.0  # seconds
_LOG_BYTES = 1 << 20
_DVC_LOCAL = Path(".dvc/config.local")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class StageUnreachable(SeracError):
    """The repository that holds the registry can't be read."""


class UnusableStore(SeracError):
    """The folder in which releases are kept can't be written."""


@dataclass(frozen=True)
class Offer:
    """A release to serve.

    Attributes
    ----------
    name:
        `serac@v1.4.0`, or the directory's name.
    key:
        Another one means that it may be another content.
    version:
        Of the registry; None for a directory.
    """

    name: str
    key: str
    version: Version | None = None


class Offers(Protocol):
    """What :class:`serac_core.serving.follow.Follower` follows."""

    @property
    def described(self) -> str:
        """What is followed, for people."""
        ...

    def refresh(self) -> None:
        """Look for news. Raises StageUnreachable: what was known stays."""
        ...

    def offers(self) -> list[Offer]:
        """What is to be served, and what was to be served before, newest first."""
        ...

    def obtain(self, offer: Offer) -> Path:
        """Its directory, whole. Raises ReleaseUnavailable, InvalidRelease."""
        ...

    def forget(self, offer: Offer) -> None:
        """Get it anew the next time."""
        ...

    def tidy(self, used: Sequence[Offer]) -> None:
        """Remove what is neither in use nor new."""
        ...


class FolderOffer:
    """A release directory; it is news when its manifest has changed."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder).absolute()

    @property
    def described(self) -> str:
        return str(self._folder)

    def refresh(self) -> None:
        pass

    def offers(self) -> list[Offer]:
        """Raises InvalidRelease if there is no manifest."""
        try:
            digest = hashlib.sha256((self._folder / MANIFEST).read_bytes()).hexdigest()
        except OSError as error:
            raise InvalidRelease(
                f"{self._folder / MANIFEST}: {error.strerror}", remedy="name a release directory"
            ) from error
        return [Offer(self._folder.name, digest)]

    def obtain(self, offer: Offer) -> Path:
        return self._folder

    def forget(self, offer: Offer) -> None:
        pass

    def tidy(self, used: Sequence[Offer]) -> None:
        pass


class StageOffers:
    """The releases that hold and held stage `prod` of a repository, by a clone of its own.

    Below `store`: `clone` with its DVC cache, `releases` with directories that are complete or
    absent, `log`. Several servers may share a store. Nothing is written to the repository.

    Parameters
    ----------
    repository:
        Git URL, or path of a repository.
    keep:
        Directories that are kept, those in use aside.
    git_timeout:
        Seconds that the repository has to answer.
    """

    def __init__(
        self,
        repository: str | Path,
        store: str | Path,
        *,
        keep: int = 3,
        git_timeout: float = _GIT_TIMEOUT,
        say: Say = lambda line: None,
    ) -> None:
        here = Path(repository)
        self._repository = str(here.absolute()) if here.exists() else str(repository)
        self._store = Path(store).absolute()
        self._clone = self._store / "clone"
        self._keep = keep
        self._git_timeout = git_timeout
        self._say = say

    @property
    def described(self) -> str:
        return f"{RELEASE}#{PROD} of {_shown(self._repository)}"

    def refresh(self) -> None:
        """Fetch the tags of the registry.

        Raises
        ------
        StageUnreachable, UnusableStore
        """
        tether_descendants()  # a fetch must not go on in the store when this server is gone
        with self._locked():
            if not (self._clone / ".git").is_dir():
                with folder_aside(self._clone) as folder:
                    git(folder, "init", "--quiet")
            self._clear_stale_locks()
            fetched = run_git(
                self._clone,
                "fetch",
                "--quiet",
                "--no-tags",
                "--prune",
                self._repository,
                f"+refs/tags/{RELEASE}*:refs/tags/{RELEASE}*",
                timeout=self._git_timeout,
            )
        if fetched.returncode:
            raise StageUnreachable(
                f"{_shown(self._repository)} can't be read: " + _shown(fetched.stderr.strip()),
                remedy="check the URL, the network and the access of this server",
            )

    def offers(self) -> list[Offer]:
        """The champion, and before it what held the stage.

        Raises
        ------
        NoChampion
        """
        if not (self._clone / ".git").is_dir():
            return []
        registry = read_registry(self._clone)
        registry.require_champion()
        held = dict.fromkeys(assignment.version for assignment in reversed(registry.assignments))
        return [Offer(version.tag, f"{version.tag} {version.commit}", version) for version in held]

    def obtain(self, offer: Offer) -> Path:
        """The release's directory from the store; where it isn't there, from the DVC remote.

        Raises
        ------
        ReleaseUnavailable, InvalidRelease, UnusableStore
        """
        assert offer.version is not None
        place = self._place(offer)
        if not place.is_dir():
            with self._locked():
                if not place.is_dir():  # another server may have been at it
                    self._fetch(offer.version, place)
        with suppress(OSError):  # a store that is full or read-only still has what it has
            place.touch()
        return place

    def forget(self, offer: Offer) -> None:
        """Remove a release that turned out bad, and what DVC keeps of it."""
        with self._locked():
            shutil.rmtree(self._place(offer), ignore_errors=True)
            shutil.rmtree(self._cache, ignore_errors=True)

    def tidy(self, used: Sequence[Offer]) -> None:
        """Keep the directories in use and the newest few, and the DVC cache no larger than they."""
        with self._locked():
            in_use = {self._place(offer) for offer in used}
            places = [path for path in self._releases.iterdir() if not path.name.startswith(".")]
            newest_first = sorted(places, key=lambda path: path.stat().st_mtime, reverse=True)
            kept = {*in_use, *newest_first[: self._keep]}
            for place in places:
                if place not in kept:
                    shutil.rmtree(place, ignore_errors=True)
            if _size(self._cache) > max(map(_size, kept), default=0) * (self._keep + 1):
                shutil.rmtree(self._cache, ignore_errors=True)

    @property
    def _releases(self) -> Path:
        return self._store / "releases"

    @property
    def _cache(self) -> Path:
        return self._store / "cache"

    def _place(self, offer: Offer) -> Path:
        assert offer.version is not None
        return self._releases / f"{offer.version.version}-{offer.version.commit[:12]}"

    def _clear_stale_locks(self) -> None:
        """Of git commands that were killed: with the store locked no other runs."""
        folder = self._clone / ".git"
        for stale in (*folder.glob("*.lock"), *(folder / "refs").rglob("*.lock")):
            stale.unlink(missing_ok=True)

    def _fetch(self, version: Version, place: Path) -> None:
        """Check the release's commit out in the clone, pull its files, copy them to their place.

        The clone keeps them: of the next release only what is new is transferred.
        """
        log = self._store / "log"
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.unlink()
        git(self._clone, "checkout", "--quiet", "--force", "--detach", version.commit)
        self._configure()
        pulled = pull_release(self._clone, version, say=self._say, log=log)
        try:
            verify_release(pulled)
        except InvalidRelease:
            shutil.rmtree(pulled, ignore_errors=True)
            shutil.rmtree(self._cache, ignore_errors=True)
            raise
        with folder_aside(place) as folder:
            shutil.copytree(pulled, folder, dirs_exist_ok=True)

    def _configure(self) -> None:
        """A DVC cache of our own, and the local settings (access to the remote) of a repository
        that is a path."""
        from dvc.config import Config
        from dvc.exceptions import DvcException

        theirs, ours = Path(self._repository) / _DVC_LOCAL, self._clone / _DVC_LOCAL
        ours.write_bytes(theirs.read_bytes() if theirs.is_file() else b"")
        try:
            with Config(str(ours.parent)).edit("local") as settings:
                settings["cache"]["dir"] = str(self._cache)
                settings["core"]["check_update"] = False
        except DvcException as error:
            raise ReleaseUnavailable(
                f"{theirs}: {error}", remedy="mend it; `dvc config --list` shows the same message"
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the store: other servers may share it."""
        try:
            self._releases.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._store / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UnusableStore(
                f"{self._store}: {error.strerror}",
                remedy="name a folder that this server may write to, on a disk with space",
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _shown(text: str) -> str:
    """A text about URLs, without what they hold of user and password."""
    return _CREDENTIALS.sub("", text)


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
