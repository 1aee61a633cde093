"""How long routing one query takes, against one bare pass of the encoder, in one run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

CALLS = 200
WARM_UP = 20


@dataclass(frozen=True)
class Latency:
    """Medians of one run in which both kinds of call alternate, in milliseconds."""

    route_ms: float
    encode_ms: float
    calls: int

    @property
    def ratio(self) -> float:
        return self.route_ms / self.encode_ms


def measure_latency(release: str | Path, calls: int = CALLS) -> Latency:
    """Time routing one query, and one bare encoder pass of the same query, alternately.

    Queries are prompts of the release's first edits, made unlike them by a leading word. The first
    calls are not counted.
    """
    from serac_core.scope.router import Router

    release = Path(release)
    router = Router.load(release)
    with (release / "edits.jsonl").open("rb") as lines:
        first = islice(lines, calls + WARM_UP)
        prompts = [json.loads(line)["prompt"] for line in first] or ["Who is it?"]
    queries = [f"Please: {prompts[turn % len(prompts)]}" for turn in range(calls + WARM_UP)]
    route, encode = [], []
    for turn, query in enumerate(queries):
        spent = (
            _milliseconds(partial(router.route, [query])),
            _milliseconds(partial(router.encoder.encode, [query])),
        )
        if turn >= WARM_UP:
            route.append(spent[0])
            encode.append(spent[1])
    return Latency(median(route), median(encode), calls)


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000
