"""The log of a training: JSON lines for the report, one line a while on the terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from serac_core.edits.atomic import write_atomically


class TrainingLog:
    """`log.jsonl` beside the checkpoints; it survives a kill and goes on where they do.

    Parameters
    ----------
    file:
        The log; made when first written to.
    total_steps:
        For the ETA on the terminal.
    """

    def __init__(self, file: Path, total_steps: int) -> None:
        self.file = file
        self._total_steps = total_steps
        self._started = time.monotonic()
        self._first_step = 0

    def resume_at(self, step: int) -> None:
        """Drop what was logged after the checkpoint that training goes on from."""
        kept = [line for line in self.read() if line["step"] <= step and "final" not in line]
        self._replace(self.file, kept)
        self._started = time.monotonic()
        self._first_step = step

    def read(self) -> list[dict[str, float]]:
        """The lines so far; one that a kill left half-written is not a line."""
        if not self.file.exists():
            return []
        lines = []
        for text in self.file.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return lines

    def add(self, step: int, figures: Mapping[str, float], examples: int = 0) -> None:
        """Log the figures of a step, and say them with rate and time left.

        Parameters
        ----------
        examples:
            Examples trained on since this process began.
        """
        seconds = time.monotonic() - self._started
        timed = {"time/elapsed": round(seconds, 3)}
        if examples:
            timed["time/examples_per_second"] = round(examples / seconds, 2)
        line = {"step": step, **figures, **timed}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._say(step, figures, examples, seconds)

    def finish(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures of the weights that are kept, on a line marked `final`."""
        self.add(step, {"final": 1, **figures})

    def publish(self, file: Path) -> None:
        """Write the log without its times, which are no function of a stage's inputs."""
        self._replace(
            file,
            [
                {name: value for name, value in line.items() if not name.startswith("time/")}
                for line in self.read()
            ],
        )

    def _say(self, step: int, figures: Mapping[str, float], examples: int, seconds: float) -> None:
        shown = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
        pace = ""
        if examples and step > self._first_step:
            left = seconds / (step - self._first_step) * (self._total_steps - step)
            pace = f" {examples / seconds:.0f} examples/s ETA {left:.0f} s"
        print(f"step {step}/{self._total_steps} {shown}{pace}", file=sys.stderr, flush=True)

    @staticmethod
    def _replace(file: Path, lines: list[dict[str, float]]) -> None:
        write_atomically(file, ((json.dumps(line) + "\n").encode() for line in lines))
