"""The registry: GTO tags in Git. Versions `serac@v1.4.0`, assignments `serac#prod#7`.

The champion is the version of the assignment with the highest counter (GTO sorts by
a date of one-second resolution, which two assignments can share).
"""

from __future__ import annotations

import logging.config
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from serac_core.errors import NegativeAnswer, SeracError
from serac_core.tether import untethered
from serac_core.workspace.commands import command_environment, git, run_git

RELEASE = "serac"
EDITS = "edits"
PROD = "prod"

# Another push is at work in the same repository; of a dead one the locks would stay.
_HELD_BY_ANOTHER_PUSH = ("cannot lock ref", "Unable to create")
_PUSHES = 20
_SECONDS_BETWEEN_PUSHES = 0.25

_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)$")
_VERSION_TAG = re.compile(r"(?P<name>[\w-]+)@(?P<version>v\d+\.\d+\.\d+)$")
_ASSIGNMENT_TAG = re.compile(rf"{RELEASE}#{PROD}#(?P<counter>\d+)$")


class UnknownVersion(SeracError):
    """No release of that version is registered."""


class NoChampion(SeracError):
    """No release is promoted."""


class NothingToRollBackTo(NegativeAnswer):
    """No earlier release has held the stage."""


class PublishRaceLost(SeracError):
    """Another run published meanwhile; nothing of this one was."""


class PublishFailed(SeracError):
    """Git refused the push; nothing was published."""


@dataclass(frozen=True)
class Version:
    """A registered version, e.g. `serac@v1.4.0`."""

    name: str
    version: str
    commit: str

    @property
    def tag(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def order(self) -> tuple[int, ...]:
        return version_order(self.version)


@dataclass(frozen=True)
class Assignment:
    """One change of what `prod` is; the highest counter is now."""

    counter: int
    version: Version

    @property
    def tag(self) -> str:
        return f"{RELEASE}#{PROD}#{self.counter}"


@dataclass(frozen=True)
class Registry:
    """The state of all tags.

    Attributes
    ----------
    versions:
        By name, oldest first.
    assignments:
        Of `prod`, first to last.
    last_counter:
        The highest number of an assignment, also of one whose commit is no release.
    """

    versions: tuple[Version, ...]
    assignments: tuple[Assignment, ...]
    last_counter: int = 0

    @property
    def champion(self) -> Version | None:
        return self.assignments[-1].version if self.assignments else None

    def require_champion(self) -> Version:
        """The champion.

        Raises
        ------
        NoChampion
        """
        if self.champion is None:
            raise NoChampion(
                "no release holds stage prod, though a branch `releases` is there",
                remedy="fetch the tags, or promote one: `serac rollback --to VERSION`",
            )
        return self.champion

    @property
    def next_counter(self) -> int:
        return self.last_counter + 1

    def of(self, name: str) -> tuple[Version, ...]:
        return tuple(version for version in self.versions if version.name == name)

    def latest(self, name: str) -> Version | None:
        return self.of(name)[-1] if self.of(name) else None

    def next_version(self, name: str) -> str:
        """The next minor version; v1.0.0 first."""
        latest = self.latest(name)
        return f"v{latest.order[0]}.{latest.order[1] + 1}.0" if latest else "v1.0.0"

    def find(self, version: str) -> Version:
        """A release by version, `v1.4.0`, `1.4.0` or `serac@v1.4.0`.

        Raises
        ------
        UnknownVersion
        """
        wanted = "v" + version.removeprefix(f"{RELEASE}@").removeprefix("v")
        for release in self.of(RELEASE):
            if release.version == wanted:
                return release
        known = ", ".join(release.version for release in self.of(RELEASE)) or "none yet"
        raise UnknownVersion(
            f"no release {version!r}", remedy=f"`serac releases list` shows them: {known}"
        )

    def rollback_target(self) -> Version:
        """The highest version below the champion's that has held the stage.

        Raises
        ------
        NothingToRollBackTo
        """
        champion = self.champion
        held = {assignment.version for assignment in self.assignments}
        earlier = [version for version in held if champion and version.order < champion.order]
        if not earlier:
            raise NothingToRollBackTo(
                f"no release before {champion.version if champion else 'the first'} was promoted",
                remedy="name one with --to; `serac releases list` shows them",
            )
        return max(earlier, key=lambda version: version.order)


def version_order(version: str) -> tuple[int, ...]:
    """`v1.10.0` -> (1, 10, 0), for sorting."""
    match = _VERSION.match(version)
    if not match:
        raise UnknownVersion(f"{version!r} is no version", remedy="versions look like v1.4.0")
    return tuple(int(part) for part in match.groups())


def read_registry(repository: Path) -> Registry:
    """Read the registry from a repository's tags."""
    listing = git(
        repository,
        "for-each-ref",
        "--format=%(refname:strip=2) %(if)%(*objectname)%(then)%(*objectname)"
        "%(else)%(objectname)%(end)",
        "refs/tags",
    )
    tags = dict(line.rsplit(" ", 1) for line in listing.splitlines())
    versions = [
        Version(match["name"], match["version"], commit)
        for tag, commit in tags.items()
        if (match := _VERSION_TAG.match(tag)) and match["name"] in (RELEASE, EDITS)
    ]
    releases = {version.commit: version for version in versions if version.name == RELEASE}
    counters = {
        int(match["counter"]): commit
        for tag, commit in tags.items()
        if (match := _ASSIGNMENT_TAG.match(tag))
    }
    assignments = [
        Assignment(counter, releases[commit])
        for counter, commit in sorted(counters.items())
        if commit in releases
    ]
    return Registry(
        tuple(sorted(versions, key=lambda version: (version.name, version.order))),
        tuple(assignments),
        max(counters, default=0),
    )


def _gto() -> ModuleType:
    """GTO's functions, without what importing them does to this process's logging.

    It configures logging anew: existing handlers are flushed under logging's lock and dropped. One
    that sends records to a Prefect server that is away never ends, as its thread logs that.
    """
    configure = logging.config.dictConfig
    logging.config.dictConfig = lambda config: None
    try:
        import gto.api
    finally:
        logging.config.dictConfig = configure
    api: ModuleType = gto.api
    return api


def register(repository: Path, name: str, version: str, commit: str) -> Version:
    """Tag a commit as a version of an artifact: `gto register`."""
    _gto().register(str(repository), name, commit, version=version)
    return Version(name, version, commit)


def assign(repository: Path, version: Version, counter: int) -> Assignment:
    """Tag a version as what `prod` is from now on: `gto assign`.

    Parameters
    ----------
    counter:
        The number the assignment must get; another means that the registry changed.

    Raises
    ------
    PublishRaceLost
    """
    made = _gto().assign(
        str(repository), RELEASE, PROD, version=version.version, force=True, skip_registration=True
    )
    assignment = Assignment(counter, version)
    if made.tag != assignment.tag:
        raise PublishRaceLost(f"expected {assignment.tag}, got {made.tag}", remedy="run again")
    return assignment


def publish(workspace: Path, tags: Sequence[str], *, releases: str | None = None) -> None:
    """Push tags, and HEAD as branch `releases`, to the clone's remote `publish`: all or nothing.

    Git does it as one transaction. It runs in a session of its own, outside the
    run's tether, so that a run killed now can't leave half-taken locks behind.

    Parameters
    ----------
    releases:
        The commit that branch `releases` must still be at ("": it must not exist);
        None pushes tags alone. Tags are never forced: an assignment of the same
        counter by another run makes this one fail.

    Raises
    ------
    PublishRaceLost
        Someone else published since the clone was taken.
    PublishFailed
    """
    refs = [f"refs/tags/{tag}" for tag in tags]
    options = ["--atomic", "--porcelain", "--no-verify"]
    if releases is not None:
        options.append(f"--force-with-lease=refs/heads/releases:{releases}")
        refs.insert(0, "HEAD:refs/heads/releases")
    for tries_left in reversed(range(_PUSHES)):
        pushed = run_git(
            workspace,
            "push",
            *options,
            "publish",
            *refs,
            environment=untethered(command_environment()),
        )
        if pushed.returncode == 0:
            return
        words = (pushed.stdout + pushed.stderr).strip()
        if not tries_left or not any(sign in words for sign in _HELD_BY_ANOTHER_PUSH):
            break
        time.sleep(_SECONDS_BETWEEN_PUSHES)
    if any(sign in words for sign in ("stale info", "already exists", "fetch first")):
        raise PublishRaceLost(
            f"another run published meanwhile:\n{words}",
            remedy="run again: it builds on the new release",
        )
    raise PublishFailed(
        f"git push was refused, nothing is published:\n{words}",
        remedy="a branch `releases` that is checked out, or a stale .lock file under .git/refs "
        "of the target, is the usual cause; mend it and run again",
    )
