"""What the base model says: computed once a query, kept in a cache keyed by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from serac_core.edits.atomic import write_atomically
from serac_core.progress import Say, in_chunks

if TYPE_CHECKING:
    from serac_core.base.language_model import LanguageModel, TokenScore

_FOLDER = "base-answers"
_SEPARATOR = "\x1f"


class BaseAnswers:
    """The base model's answers and token scores; a query is asked once, whatever asks again.

    Parameters
    ----------
    model:
        The loaded base model.
    max_new_tokens:
        Longest answer, in tokens.
    cache_dir:
        Where answers are kept between runs, in `base-answers/<key>.json`; the key is made
        from `identity`, so that another model never gets this one's answers.
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
            self._file = cache_dir / _FOLDER / f"{key[:32]}.json"
        self._answers: dict[str, str] = {}
        self._scores: dict[str, list[list[int]]] = {}
        self._read()

    def answers(self, queries: Sequence[str]) -> list[str]:
        """The base model's greedy answers, in the order of the queries."""
        new = [query for query in dict.fromkeys(queries) if query not in self._answers]
        for part in in_chunks(new, "base answers", self._say):
            found = self._model.generate(part, max_new_tokens=self._max_new_tokens)
            self._answers.update(zip(part, found, strict=True))
        if new:
            self._write()
        return [self._answers[query] for query in queries]

    def scores(self, prompts: Sequence[str], targets: Sequence[str]) -> list[TokenScore]:
        """Teacher-forced scores of targets after prompts, in their order."""
        from serac_core.base.language_model import TokenScore

        keys = [_SEPARATOR.join(pair) for pair in zip(prompts, targets, strict=True)]
        pairs = dict(zip(keys, zip(prompts, targets, strict=True), strict=True))
        new = [key for key in pairs if key not in self._scores]
        for part in in_chunks(new, "base scores", self._say):
            found = self._model.score([pairs[k][0] for k in part], [pairs[k][1] for k in part])
            for key, score in zip(part, found, strict=True):
                self._scores[key] = [list(score.target_ids), list(score.predicted_ids)]
        if new:
            self._write()
        return [
            TokenScore(target_ids=tuple(target), predicted_ids=tuple(predicted))
            for target, predicted in (self._scores[key] for key in keys)
        ]

    def _read(self) -> None:
        if self._file is None or not self._file.exists():
            return
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            self._answers = {str(query): str(answer) for query, answer in kept["answers"].items()}
            self._scores = {key: [list(a), list(b)] for key, (a, b) in kept["scores"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._say(f"{self._file}: not readable ({error}); asking the base model again")
            self._answers, self._scores = {}, {}

    def _write(self) -> None:
        if self._file is not None:
            kept = {"answers": self._answers, "scores": self._scores}
            write_atomically(self._file, [json.dumps(kept, sort_keys=True).encode()])


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
