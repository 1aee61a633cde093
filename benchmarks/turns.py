"""Trainings that take turns of a few seconds, so that what else the machine does hits all alike."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from reference_loop import BATCH, ReferenceLoop

from serac_core.edits.record import Edit
from serac_core.progress import tell

PLACES = ("second", "processor_second")
"""How rates are named; the first is the clock's."""
_SAMPLE = 200  # edits that are measured until they are near the goal
_NEAR = 0.997  # of the sample, from which all are measured
_FLOOR_EVERY = 5  # steps


@dataclass
class Stopwatch:
    """Seconds of the clock and of the processor while it runs."""

    clock: float = 0.0
    processor: float = 0.0
    _since: tuple[float, float] | None = None

    def __enter__(self) -> Stopwatch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._since = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        if self._since is not None:
            clock, processor = self._since
            self.clock += time.perf_counter() - clock
            self.processor += time.process_time() - processor
            self._since = None

    def reading(self) -> tuple[float, float]:
        """(clock, processor) so far; it stands."""
        return self.clock, self.processor

    def as_dict(self) -> dict[str, float]:
        return {"seconds": round(self.clock, 3), "processor_seconds": round(self.processor, 3)}


@dataclass
class Progress:
    """`edit/acc` on the way to the goal.

    Attributes
    ----------
    curve:
        Step, seconds, and `edit/acc` of how many edits.
    reached:
        The point of the curve where all edits together are at the goal.
    """

    goal: float
    curve: list[dict[str, float]] = field(default_factory=list)
    reached: dict[str, float] | None = None

    def measure(
        self,
        name: str,
        step: int,
        spent: tuple[float, float],
        edits: Sequence[Edit],
        accuracy: Callable[[Sequence[Edit]], float],
    ) -> None:
        """Measure a sample, and all edits where it is near the goal."""
        for asked in (edits[:_SAMPLE], edits):
            found = accuracy(asked)
            point = {
                "step": step,
                "seconds": round(spent[0], 3),
                "processor_seconds": round(spent[1], 3),
                "edit/acc": found,
                "edits": len(asked),
            }
            self.curve.append(point)
            tell(
                f"{name}: step {step} edit/acc {found:.5f} of {len(asked)} edits, "
                f"{spent[0]:.1f} s ({spent[1]:.1f} s of the processor)"
            )
            if len(asked) == len(edits) and found >= self.goal:
                self.reached = point
            if found < min(_NEAR, self.goal) or len(asked) == len(edits):
                return


class Rival:
    """A reference loop that runs in turns until it is at the goal or its time is up."""

    def __init__(
        self, name: str, loop: ReferenceLoop, edits: Sequence[Edit], asked: argparse.Namespace
    ) -> None:
        self.name = name
        self.loop = loop
        self.progress = Progress(asked.goal)
        self._watch = Stopwatch()
        self._edits = edits
        self._cap: float = asked.cap
        self._every: int = asked.measure_every
        self._most: int | None = asked.steps
        self._steps: list[tuple[float, float]] = []

    @property
    def done(self) -> bool:
        if self._most is not None:
            return self.loop.steps >= self._most
        return self.progress.reached is not None or self._watch.clock >= self._cap

    def run_for(self, seconds: float) -> None:
        """Steps for so long, at least one."""
        until = self._watch.clock + seconds
        while not self.done:
            before = self._watch.reading()
            with self._watch:
                self.loop.step()
            now = self._watch.reading()
            self._steps.append((now[0] - before[0], now[1] - before[1]))
            if self._most is None and self.loop.steps % self._every == 0:
                self._measure()
            if self._watch.clock >= until:
                break

    def said(self) -> str:
        """How far it is, for people."""
        clock, processor = self._watch.reading()
        return f"{self.loop.steps} steps, {clock:.1f} s ({processor:.1f} s of the processor)"

    def as_dict(self) -> dict[str, Any]:
        return {
            "steps": self.loop.steps,
            **_of_training(self._watch, BATCH * self.loop.steps, self._steps),
            "reached": self.progress.reached,
            "curve": self.progress.curve,
        }

    def _measure(self) -> None:
        self.progress.measure(
            self.name,
            self.loop.steps,
            self._watch.reading(),
            self._edits,
            lambda some: self.loop.accuracy(some, self._edits),
        )


class Phase:
    """One of our trainings, in turns with the rivals.

    Parameters
    ----------
    floor:
        Does a step's passes and nothing else; gives how long, in seconds of clock and processor.
    look:
        Looks at the model after a step, the watch standing.
    """

    def __init__(
        self,
        rivals: Sequence[Rival],
        turn: float,
        edits_of_step: Callable[[int], float],
        floor: Callable[[int], tuple[float, float]],
        look: Callable[[int, Any, tuple[float, float]], None] = lambda *_: None,
    ) -> None:
        self.watch = Stopwatch()
        self._rivals = rivals
        self._turn = turn
        self._edits_of_step = edits_of_step
        self._floor = floor
        self._look = look
        self._before = (0.0, 0.0)
        self._turn_began = 0.0
        self._steps: list[tuple[float, float]] = []
        self._beside: list[tuple[tuple[float, float], tuple[float, float]]] = []
        self._edits = 0.0

    def after_step(self, step: int, model: Any = None) -> None:
        self.watch.stop()
        now = self.watch.reading()
        took = now[0] - self._before[0], now[1] - self._before[1]
        self._steps.append(took)
        self._edits += self._edits_of_step(step)
        if step % _FLOOR_EVERY == _FLOOR_EVERY // 2:
            self._beside.append((took, self._floor(step)))
        self._look(step, model, now)
        if now[0] - self._turn_began >= self._turn:
            for rival in self._rivals:
                rival.run_for(now[0] - self._turn_began)
            self._turn_began = now[0]
        self._before = now
        self.watch.start()

    def as_dict(self) -> dict[str, Any]:
        found = {
            "steps": len(self._steps),
            **_of_training(self.watch, self._edits, self._steps),
        }
        if self._beside:
            for place, of in enumerate(("floor_ratio", "floor_processor_ratio")):
                steps = sum(took[place] for took, _ in self._beside)
                found[of] = steps / sum(floor[place] for _, floor in self._beside)
        return found


def rates_of(watch: Stopwatch, edits: float) -> dict[str, Any]:
    """How long it took, and how many edits that is a second."""
    return {
        **watch.as_dict(),
        "edits": edits,
        "edits_per_second": edits / watch.clock,
        "edits_per_processor_second": edits / watch.processor,
    }


def _of_training(
    watch: Stopwatch, edits: float, steps: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """The same, and the median step's."""
    found = rates_of(watch, edits)
    for place, of in enumerate(PLACES):
        step = median(took[place] for took in steps)
        found[f"step_{of}s"] = step
        found[f"edits_per_{of}_of_steps"] = edits / len(steps) / step
    return found
