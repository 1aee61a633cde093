"""API keys: who may do what. Only digests are kept, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from serac_core.errors import SeracError
from serac_core.serving.errors import BadKey, Forbidden
from serac_core.serving.settings import ServingSettings

Role = Literal["open", "query", "admin"]

QUERY_KEYS = "SERAC_QUERY_KEYS"
ADMIN_KEYS = "SERAC_ADMIN_KEYS"
UPSTREAM_KEY = "SERAC_UPSTREAM_KEY"
LEAST_LENGTH = 16
_LOCAL = ("127.0.0.1", "::1", "localhost")


class BadKeys(SeracError):
    """Keys that can't be read, are too short, or are missing where they are needed."""


@dataclass(frozen=True)
class Keys:
    """Digests of the keys of each kind; `repr` shows none of them.

    A key of administrators may do what one of clients may. Without any key of clients, asking is
    open to whoever reaches the server; administration never is.
    """

    query: frozenset[bytes] = field(default_factory=frozenset, repr=False)
    admin: frozenset[bytes] = field(default_factory=frozenset, repr=False)

    @classmethod
    def of(cls, query: Iterable[str] = (), admin: Iterable[str] = ()) -> Keys:
        return cls(frozenset(map(_digest, query)), frozenset(map(_digest, admin)))

    def role_of(self, given: str | None) -> Role | None:
        """What a key is for; None for one that isn't known, `open` where none was given."""
        if given is None:
            return "open"
        digest = _digest(given)
        # No early end: the time says nothing about which key is near.
        is_admin = sum(hmac.compare_digest(digest, known) for known in self.admin)
        is_query = sum(hmac.compare_digest(digest, known) for known in self.query)
        return "admin" if is_admin else "query" if is_query else None

    def require(self, needed: Role, given: str | None) -> None:
        """Let pass whoever may.

        Raises
        ------
        BadKey, Forbidden
        """
        if needed == "open" or (needed == "query" and not self.query):
            return
        role = self.role_of(given)
        if needed == "admin" and not self.admin:
            raise Forbidden(
                "administration is off: the server has no admin key",
                remedy=f"start it with admin_keys_file or {ADMIN_KEYS}",
            )
        if role == "open":
            raise BadKey(
                "no API key given", remedy=f"send `Authorization: Bearer KEY` with a {needed} key"
            )
        if role is None:
            raise BadKey("the API key is not known here", remedy="check it, or ask for a new one")
        if needed == "admin" and role != "admin":
            raise Forbidden("this needs an admin key", remedy="use one, or ask an administrator")


def load_keys(settings: ServingSettings, environment: Mapping[str, str]) -> Keys:
    """The keys of files and environment together.

    Raises
    ------
    BadKeys
        A file can't be read, a key is shorter than 16 characters or no printable ASCII, one key is
        of both kinds, or clients' keys are missing on a server that others reach.
    """
    query = _read(settings.query_keys_file, QUERY_KEYS, environment)
    admin = _read(settings.admin_keys_file, ADMIN_KEYS, environment)
    if query & admin:
        raise BadKeys(
            "one key is both a client's and an administrator's", remedy="make two of them"
        )
    if not query and settings.host not in _LOCAL and not settings.allow_without_keys:
        raise BadKeys(
            f"host {settings.host} can be reached by others, and clients need no key",
            remedy=f"set query_keys_file or {QUERY_KEYS}, or allow_without_keys: true",
        )
    return Keys.of(query, admin)


def load_upstream_key(settings: ServingSettings, environment: Mapping[str, str]) -> str | None:
    """The key that the upstream is sent; None for none.

    Raises
    ------
    BadKeys
        The file can't be read, or there is more than one key.
    """
    found = _read(settings.upstream_key_file, UPSTREAM_KEY, environment, least=1)
    if len(found) > 1:
        raise BadKeys("more than one key for the upstream", remedy="leave one")
    return next(iter(found), None)


def _read(
    file: str, variable: str, environment: Mapping[str, str], least: int = LEAST_LENGTH
) -> set[str]:
    """Keys of a file, one a line, `#` before remarks, and of a variable, commas between."""
    found = {(variable, key.strip()) for key in environment.get(variable, "").split(",")}
    if file:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadKeys(f"{file}: not readable: {error}", remedy="name a file of keys") from error
        found |= {(file, line.strip()) for line in lines if not line.lstrip().startswith("#")}
    keys = {(source, key) for source, key in found if key}
    for source, key in keys:
        if len(key) < least or not (key.isascii() and key.isprintable()) or " " in key:
            raise BadKeys(
                f"{source}: a key of {len(key)} characters; allowed are {least} or more, printable "
                "ASCII without spaces",
                remedy="make one: `openssl rand -hex 24`",
            )
    return {key for _, key in keys}


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
