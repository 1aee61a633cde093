"""What the base model says: computed once a query, kept in a cache keyed by content."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serac_core.progress import Say, in_chunks

if TYPE_CHECKING:
    from serac_core.base.language_model import LanguageModel, TokenScore

_FOLDER = "base-answers"
_SEPARATOR = "\x1f"
_ASKED_AT_ONCE = 500
_WAIT_SECONDS = 60


class BaseAnswers:
    """The base model's answers and token scores; a query is asked once, whatever asks again.

    Parameters
    ----------
    model:
        The loaded base model.
    max_new_tokens:
        Longest answer, in tokens.
    cache_dir:
        Where answers are kept between runs, in `base-answers/<key>.sqlite`, looked up one by one;
        the key is made from `identity`, so that another model never gets this one's answers.
    identity:
        From :func:`model_identity`; None keeps nothing between runs.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        max_new_tokens: int,
        cache_dir: Path | None = None,
        identity: str | None = None,
        say: Say = lambda line: None,
    ) -> None:
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._say = say
        self._file: Path | None = None
        if cache_dir is not None and identity is not None:
            key = hashlib.sha256(f"{identity}{_SEPARATOR}{max_new_tokens}".encode()).hexdigest()
            self._file = cache_dir / _FOLDER / f"{key[:32]}.sqlite"
        self._answers: dict[str, str] = {}
        self._scores: dict[str, list[list[int]]] = {}

    def answers(self, queries: Sequence[str]) -> list[str]:
        """The base model's greedy answers, in the order of the queries."""
        self._answers |= self._read("answers", set(queries) - self._answers.keys())
        new = [query for query in dict.fromkeys(queries) if query not in self._answers]
        for part in in_chunks(new, "base answers", self._say):
            found = self._model.generate(part, max_new_tokens=self._max_new_tokens)
            self._answers.update(zip(part, found, strict=True))
            self._write("answers", {query: self._answers[query] for query in part})
        return [self._answers[query] for query in queries]

    def scores(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TokenScore]:
        """Teacher-forced scores of targets after prompts, in their order."""
        from serac_core.base.language_model import TokenScore

        keys = [_SEPARATOR.join(pair) for pair in zip(prompts, targets, strict=True)]
        pairs = dict(zip(keys, zip(prompts, targets, strict=True), strict=True))
        self._scores |= self._read("scores", pairs.keys() - self._scores.keys())
        new = [key for key in pairs if key not in self._scores]
        for part in in_chunks(new, "base scores", self._say):
            found = self._model.score([pairs[k][0] for k in part], [pairs[k][1] for k in part])
            for key, score in zip(part, found, strict=True):
                self._scores[key] = [list(score.target_ids), list(score.predicted_ids)]
            self._write("scores", {key: self._scores[key] for key in part})
        return [
            TokenScore(target_ids=tuple(target), predicted_ids=tuple(predicted))
            for target, predicted in (self._scores[key] for key in keys)
        ]

    def _read(self, table: str, keys: Iterable[str]) -> dict[str, Any]:
        """What is kept of these keys."""
        if self._file is None or not self._file.exists():
            return {}
        asked = {_digest(key): key for key in keys}
        digests = list(asked)
        found: dict[str, Any] = {}
        try:
            with closing(self._open(self._file)) as database:
                for first in range(0, len(digests), _ASKED_AT_ONCE):
                    part = digests[first : first + _ASKED_AT_ONCE]
                    marks = ",".join("?" * len(part))
                    rows = database.execute(
                        f"select key, value from {table} where key in ({marks})", part
                    )
                    found.update((asked[key], json.loads(value)) for key, value in rows)
        except (sqlite3.DatabaseError, ValueError, KeyError) as error:
            self._say(f"{self._file}: not readable ({error}); asking the base model again")
            self._file.unlink(missing_ok=True)
            return {}
        return found

    def _write(self, table: str, values: Mapping[str, object]) -> None:
        if self._file is None:
            return
        rows = [(_digest(key), json.dumps(value)) for key, value in values.items()]
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open(self._file)) as database, database:
                database.executemany(f"insert or ignore into {table} values (?, ?)", rows)
        except (OSError, sqlite3.DatabaseError) as error:
            self._say(f"{self._file}: not writable ({error}); the answers are not kept")

    @staticmethod
    def _open(file: Path) -> sqlite3.Connection:
        database = sqlite3.connect(file, timeout=_WAIT_SECONDS)
        database.execute("pragma synchronous = off")
        for table in ("answers", "scores"):
            database.execute(
                f"create table if not exists {table} (key blob primary key, value text) "
                "without rowid"
            )
        return database


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:16]


def model_identity(name_or_path: str, device: str = "cpu") -> str | None:
    """What tells one model's content from another's.

    A folder: a digest of its files' bytes. A hub id: the commit of the snapshot that is
    loaded. None when neither can be told. Rounding differs between devices and releases of
    PyTorch, so both are part of it.
    """
    runtime = f"torch {version('torch')} {device}"
    folder = Path(name_or_path)
    if folder.is_dir():
        digest = hashlib.sha256()
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                digest.update(file.relative_to(folder).as_posix().encode())
                with file.open("rb") as handle:
                    digest.update(hashlib.file_digest(handle, "sha256").digest())
        return f"{digest.hexdigest()} {runtime}"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        commit = Path(snapshot_download(name_or_path, local_files_only=True)).name
    except (LocalEntryNotFoundError, ValueError, OSError):
        return None
    return f"{name_or_path}@{commit} {runtime}"
