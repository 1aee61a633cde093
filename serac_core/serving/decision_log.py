"""The log of decisions: what the router decided, line by line, for drift reports.

A folder of files `decisions-TIME-PID-N.jsonl`, each line one JSON object:

`at` (ISO 8601, UTC) · `endpoint` (`chat`, `completions`, `route`, `answer`) · `release` ·
`route` (`edit`, `base`) · `in_scope` · `score` · `threshold` · `borderline` · `edit_id` (null out
of scope) · `nearest_edit_id` (null where no edit came into question: its score is -1) · `variant`
· `characters` (of the query) · and, only where `log_prompts` is set, `query`.

Writing is a thread's: a full disk or a slow one costs lines, which are counted
(`serac_decision_log_dropped_total`), never an answer.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from serac_core.errors import SeracError
from serac_core.serving.metrics import Metrics
from serac_core.serving.settings import ServingSettings

if TYPE_CHECKING:
    from serac_core.scope.router import Decision

log = logging.getLogger("serac.serving")
_WAITING = 100_000  # lines
_RETRY = 5.0  # seconds until a disk that failed is tried again
_PATTERN = "decisions-*.jsonl"


class UnwritableLog(SeracError):
    """The folder of the decision log can't be made or written to."""


class DecisionLog:
    """Appends decisions to the files of a folder; a full one is followed by the next, and of many
    the oldest are removed.

    Raises
    ------
    UnwritableLog
    """

    def __init__(self, settings: ServingSettings, metrics: Metrics) -> None:
        self._folder = Path(settings.decision_log)
        self._most_bytes = settings.decision_log_megabytes << 20
        self._most_files = settings.decision_log_files
        self._with_text = settings.log_prompts
        self._metrics = metrics
        self._lines: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._file: BinaryIO | None = None
        self._number = 0
        self._failed_at: float | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise UnwritableLog(
                f"{self._folder}: can't be written: {error.strerror or error}",
                remedy="choose another decision_log folder, or leave it empty for none",
            ) from error
        self._thread = threading.Thread(target=self._run, name="serac-decision-log", daemon=True)
        self._thread.start()

    def add(self, endpoint: str, release: str, variant: str, decisions: Sequence[Decision]) -> None:
        """Take decisions for writing; never waits."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for decision in decisions:
            line = {
                "at": at,
                "endpoint": endpoint,
                "release": release,
                "route": "edit" if decision.in_scope else "base",
                "in_scope": decision.in_scope,
                "score": round(decision.score, 6),
                "threshold": round(decision.threshold, 6),
                "borderline": decision.borderline,
                "edit_id": decision.edit_id,
                "nearest_edit_id": decision.nearest_edit_id,
                "variant": variant,
                "characters": len(decision.query),
            }
            if self._with_text:
                line["query"] = decision.query
            try:
                self._lines.put_nowait(json.dumps(line).encode() + b"\n")
            except queue.Full:
                self._metrics.log_dropped.inc()

    def close(self) -> None:
        """Write what waits, and end."""
        self._lines.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            lines = [line]
            ended = False
            while len(lines) < 1000:
                try:
                    line = self._lines.get_nowait()
                except queue.Empty:
                    break
                if line is None:
                    ended = True
                    break
                lines.append(line)
            self._write(lines)
            if ended:
                break
        if self._file is not None:
            self._file.close()

    def _write(self, lines: Sequence[bytes]) -> None:
        if self._failed_at is not None and time.monotonic() - self._failed_at < _RETRY:
            self._metrics.log_dropped.inc(len(lines))
            return
        try:
            if self._file is None or self._file.tell() >= self._most_bytes:
                self._open()
            assert self._file is not None
            text = b"".join(lines)
            place = self._file.tell()
            written = self._file.write(text)
            if written < len(text):  # the disk is full: what is torn goes, whole lines stay
                whole = text[:written].rfind(b"\n") + 1
                self._file.truncate(place + whole)
                lines = lines[text[:whole].count(b"\n") :]
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._failed_at = None
        except OSError as error:
            if self._failed_at is None:
                log.warning("decision log %s: %s; lines are lost", self._folder, error)
            self._failed_at = time.monotonic()
            self._metrics.log_dropped.inc(len(lines))
            if self._file is not None:
                self._file.close()
                self._file = None

    def _open(self) -> None:
        if self._file is not None:
            self._file.close()
        self._number += 1
        began = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        name = f"decisions-{began}-{os.getpid()}-{self._number:04}.jsonl"
        self._file = (self._folder / name).open("ab", buffering=0)
        for old in sorted(self._folder.glob(_PATTERN))[: -self._most_files]:
            old.unlink(missing_ok=True)
