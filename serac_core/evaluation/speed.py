"""How fast a release routes, against the bare encoder and against encoding the memory anew.

How it is measured:

- At each size the memory is built of that many edits, written, read back, and asked a mix of
  queries (:mod:`serac_core.evaluation.speed_workload`): 90 % far, 5 % near misses, 5 % in scope.
- Each query goes alone through `Router.route` and through the encoder, one right after the other,
  who is first changing from query to query; `time.perf_counter_ns` around each call. The first
  queries, 50 or all there are, go through both before, uncounted. Garbage collection is on.
- Then the same queries in batches of 64, router and encoder alternating; throughput is queries
  over the sum of the batches' times.
- Load time and resident memory are those of a fresh process that does nothing else; its files are
  in the page cache, for they were just written.
- The baseline encodes all prompts in memory, and the query, at each query, in batches of 64 through
  the same encoder, and takes the greatest cosine, as SERAC's and EasyEdit's implementations do.

Ratios are of one run. Times are milliseconds, unless named otherwise.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from serac_core.edits.atomic import write_atomically
from serac_core.edits.jsonl import read_active_edits
from serac_core.errors import SeracError
from serac_core.evaluation.plots import draw_speed
from serac_core.evaluation.speed_table import machine_facts
from serac_core.evaluation.speed_workload import SHARES, Query, Workload
from serac_core.progress import Say

if TYPE_CHECKING:
    from serac_core.scope.encoder import Encoder
    from serac_core.scope.router import Router
    from serac_core.scope.session import OnnxEncoder

T = TypeVar("T")

QUERIES = 2000
BATCH = 64
WARM_UP = 50
BASELINE_AT = (10, 100, 1000)
"""Sizes at which the baseline is measured unless others are asked for."""
EASYEDIT = {"edits": 10_000, "seconds_per_query": 35.5, "threads": 2}
"""EasyEdit's SERAC, embedding mode, as measured once for reference; not of the same run."""
_BASELINE_CALLS = 5
_BASELINE_SECONDS = 60.0  # no further call of the baseline begins after these
_COMPARED_AT = 10_000  # greatest size at which variants are compared


class BadSizes(SeracError):
    """A size is no count of edits, or the baseline is asked for where nothing is measured."""


class ReencodingMemory:
    """The baseline: every query encodes all prompts again.

    Parameters
    ----------
    batch_size:
        Texts in one pass of the encoder.
    """

    def __init__(self, encoder: Encoder, prompts: Sequence[str], batch_size: int = BATCH) -> None:
        self._encoder = encoder
        self._prompts = list(prompts)
        self._batch_size = batch_size

    def nearest(self, query: str) -> tuple[int, float]:
        """Place of the nearest prompt, and its cosine."""
        vectors_ND = self._encoder.encode([*self._prompts, query], batch_size=self._batch_size)
        cosine_E = vectors_ND[:-1] @ vectors_ND[-1]
        place = int(cosine_E.argmax())
        return place, float(cosine_E[place])


def benchmark_speed(
    release: str | Path,
    sizes: Sequence[int],
    out: str | Path,
    *,
    edit_sets: Sequence[str | Path] = (),
    far: Sequence[str] = (),
    variant: str = "fp32",
    provider: str = "cpu",
    threads: int | None = None,
    baseline_at: Sequence[int] | None = None,
    count: int = QUERIES,
    seed: int = 17,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Measure a release's routing at each memory size; writes `speed.json` and `speed.png`.

    Parameters
    ----------
    edit_sets:
        JSONL files of edits to fill the memory with, the release's own without one; where a size
        needs more, others are made of them.
    far:
        Queries that no edit is meant by; everyday ones without.
    threads:
        Of one encoder pass; None leaves the choice to ONNX Runtime.
    baseline_at:
        Sizes at which the baseline is measured; None for those of 10, 100 and 1,000 that are
        among `sizes`.
    count:
        Queries at each size, 20 at least.

    Returns
    -------
    dict
        The content of `speed.json`. `sizes` has, by size, `router` and `encoder` (`p50`, `p90`,
        `p99`, `mean`), `ratio` of the two at p50 and p99, the same of each of `parts` with the
        share `routed`, `batches`, `memory` and, where it was measured, `baseline`; `variants`
        compares int8 with fp32 where both are exported.

    Raises
    ------
    BadSizes, NotEnoughToAsk, UnreadableEdits, UnwritableOutput
        And what loading the release raises.
    """
    from serac_core.scope.session import OnnxEncoder

    release, folder = Path(release), Path(out)
    chosen = sorted(set(sizes))
    baselines = _baseline_sizes(chosen, baseline_at)
    encoder = OnnxEncoder.load(release / "scope", variant, provider, threads)
    workload = Workload(
        read_active_edits(edit_sets or [release / "edits.jsonl"]), far=far, seed=seed
    )
    found: dict[str, Any] = {
        "schema": 1,
        "release": release.resolve().name,
        "variant": variant,
        "provider": provider,
        "given_edits": len(workload.given),
        "far_queries": len(workload.far),
        "queries": count,
        "mix": dict(SHARES),
        "batch": BATCH,
        "seed": seed,
        "machine": machine_facts(threads),
        "easyedit": dict(EASYEDIT),
        "sizes": {},
        "variants": None,
    }
    machine = found["machine"]
    if machine["load_average"] > machine["usable_cores"] / 4:
        say(
            f"others work on this machine (load {machine['load_average']} on "
            f"{machine['usable_cores']} cores): times, and above all p99, will be too long"
        )
    compared_at = max([size for size in chosen if size <= _COMPARED_AT] or chosen[:1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".memory-") as scratch:
        for size in chosen:
            asked = workload.queries(size, count)
            say(f"{size} edits: building the memory")
            router = _stored(release, encoder, workload, size, Path(scratch) / variant)
            row = _measure(router, asked, f"{size} edits", say)
            row["memory"] = _in_fresh_process(
                release, Path(scratch) / variant, variant, provider, threads, asked[0].text
            )
            if size in baselines:
                row["baseline"] = _baseline(router.encoder, workload, size, asked, row, say)
            if size == compared_at:
                found["variants"] = _variants(
                    release, router, workload, size, asked, Path(scratch), provider, threads, say
                )
            found["sizes"][str(size)] = row
    write_atomically(folder / "speed.png", [draw_speed(found["sizes"])])
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    write_atomically(folder / "speed.json", [text.encode()])
    return found


def _baseline_sizes(sizes: Sequence[int], asked: Sequence[int] | None) -> set[int]:
    if not sizes or sizes[0] < 1:
        raise BadSizes(
            f"sizes are {', '.join(map(str, sizes)) or 'none'}",
            remedy="name counts of edits above 0, as in 10,100,1000",
        )
    if asked is None:
        return set(BASELINE_AT) & set(sizes)
    if outside := sorted(set(asked) - set(sizes)):
        raise BadSizes(
            f"the baseline is asked for at {', '.join(map(str, outside))}, measured are "
            f"{', '.join(map(str, sizes))}",
            remedy="name sizes of --sizes: it is compared with the router of the same run",
        )
    return set(asked)


def _stored(
    release: Path, encoder: OnnxEncoder, workload: Workload, size: int, folder: Path
) -> Router:
    """The router of a memory of so many edits, as it is read back; a smaller memory in `folder`
    gives the keys that it holds."""
    from serac_core.scope.calibration_file import read_calibration
    from serac_core.scope.memory import EditMemory
    from serac_core.scope.router import Router

    thresholds = read_calibration(release / "scope" / "calibration.json", encoder.variant)
    previous = EditMemory.load(folder, encoder.digest) if folder.exists() else None
    built = EditMemory.build(workload.edits(size), encoder, previous, batch_size=BATCH)
    built.save(folder, encoder.variant)
    return Router.calibrated(encoder, EditMemory.load(folder, encoder.digest), thresholds)


def _measure(router: Router, asked: Sequence[Query], what: str, say: Say) -> dict[str, Any]:
    """Latencies, by part too, and throughput."""
    texts = [query.text for query in asked]
    calls = {
        "router": lambda text: router.route([text]),
        "encoder": lambda text: router.encoder.encode([text]),
    }
    _alternate(calls, texts[:WARM_UP])
    spent = _alternate(calls, texts, lambda done: say(f"{what}: query {done}/{len(texts)}"))
    routed = [decision.in_scope for decision in router.route(texts)]
    parts = {}
    for part in SHARES:
        of_part = [n for n, query in enumerate(asked) if query.part == part]
        figures = _figures({name: [ns[n] for n in of_part] for name, ns in spent.items()})
        share = sum(routed[n] for n in of_part) / len(of_part)
        parts[part] = {"n": len(of_part), "routed": share, **figures}
    rates = _per_second({"router": router.route, "encoder": router.encoder.encode}, texts)
    batches = {**rates, "ratio": rates["router"] / rates["encoder"]}
    say(f"{what}: {rates['router']:.0f} queries/s in batches of {BATCH}")
    return {**_figures(spent), "parts": parts, "batches": batches}


def _alternate(
    calls: Mapping[str, Callable[[T], object]],
    inputs: Sequence[T],
    tell_done: Callable[[int], None] = lambda done: None,
) -> dict[str, list[int]]:
    """Nanoseconds of each call on each input; another call is first at each input."""
    names = list(calls)
    spent: dict[str, list[int]] = {name: [] for name in names}
    told = time.monotonic()
    for turn, given in enumerate(inputs):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            call = calls[name]
            started = time.perf_counter_ns()
            call(given)
            spent[name].append(time.perf_counter_ns() - started)
        if time.monotonic() - told > 5:
            told = time.monotonic()
            tell_done(turn + 1)
    return spent


def _figures(spent: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Quantiles and mean of each, in milliseconds, and the ratios router / encoder."""
    import numpy as np

    found: dict[str, Any] = {}
    for name, nanoseconds in spent.items():
        milliseconds = np.asarray(nanoseconds) / 1e6
        p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99]).tolist()
        found[name] = {"p50": p50, "p90": p90, "p99": p99, "mean": float(milliseconds.mean())}
    if found.keys() >= {"router", "encoder"}:
        found["ratio"] = {
            at: found["router"][at] / found["encoder"][at] for at in ("p50", "p99", "mean")
        }
    return found


def _per_second(
    calls: Mapping[str, Callable[[list[str]], object]], texts: Sequence[str]
) -> dict[str, float]:
    """Queries a second of each call, in batches."""
    batches = [list(texts[first : first + BATCH]) for first in range(0, len(texts), BATCH)]
    _alternate(calls, batches[:1])
    spent = _alternate(calls, batches)
    return {name: len(texts) / (sum(nanoseconds) / 1e9) for name, nanoseconds in spent.items()}


def _in_fresh_process(
    release: Path, memory: Path, variant: str, provider: str, threads: int | None, query: str
) -> dict[str, float]:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(
            load_and_weigh, release, memory, variant, provider, threads, query
        ).result()


def load_and_weigh(
    release: Path, memory: Path, variant: str, provider: str, threads: int | None, query: str
) -> dict[str, float]:
    """Load a memory in this process and tell what that costs.

    Returns
    -------
    dict
        `load_seconds` of the memory alone, `ready_seconds` until a first query is decided,
        `resident_mb` of the process, `of_memory_mb` what the memory added to it, `disk_mb` of its
        files.
    """
    import psutil

    from serac_core.scope.calibration_file import read_calibration
    from serac_core.scope.memory import EditMemory
    from serac_core.scope.router import Router
    from serac_core.scope.session import OnnxEncoder

    encoder = OnnxEncoder.load(release / "scope", variant, provider, threads)
    encoder.encode([query])
    thresholds = read_calibration(release / "scope" / "calibration.json", variant)
    Router.calibrated(encoder, EditMemory.build([], encoder), thresholds).route([query])
    process = psutil.Process()
    before = process.memory_info().rss
    started = time.perf_counter()
    loaded = EditMemory.load(memory, encoder.digest)
    load_seconds = time.perf_counter() - started
    Router.calibrated(encoder, loaded, thresholds).route([query])
    ready_seconds = time.perf_counter() - started
    resident = process.memory_info().rss
    return {
        "load_seconds": load_seconds,
        "ready_seconds": ready_seconds,
        "resident_mb": resident / 1e6,
        "of_memory_mb": (resident - before) / 1e6,
        "disk_mb": sum(path.stat().st_size for path in memory.iterdir()) / 1e6,
    }


def _baseline(
    encoder: Encoder,
    workload: Workload,
    size: int,
    asked: Sequence[Query],
    row: Mapping[str, Any],
    say: Say,
) -> dict[str, float]:
    memory = ReencodingMemory(encoder, [edit.prompt for edit in workload.edits(size)])
    spent: list[int] = []
    for query in asked[:_BASELINE_CALLS]:
        spent += _alternate({"baseline": memory.nearest}, [query.text])["baseline"]
        say(f"{size} edits: the baseline takes {spent[-1] / 1e9:.2f} s a query")
        if sum(spent) > _BASELINE_SECONDS * 1e9:
            break
    mean = sum(spent) / len(spent) / 1e6
    return {
        "calls": len(spent),
        "batch": BATCH,
        "mean": mean,
        "ratio_mean": mean / row["router"]["mean"],
        "ratio_in_scope": mean / row["parts"]["in_scope"]["router"]["mean"],
    }


def _variants(
    release: Path,
    router: Router,
    workload: Workload,
    size: int,
    asked: Sequence[Query],
    scratch: Path,
    provider: str,
    threads: int | None,
    say: Say,
) -> dict[str, Any] | None:
    """int8 against fp32, alternating; None where one of them isn't exported."""
    from serac_core.scope.session import OnnxEncoder, exported_variants

    names = ("fp32", "int8")
    if not set(names) <= set(exported_variants(release / "scope")):
        return None
    say(f"{size} edits: fp32 and int8")
    routers = {router.encoder.variant: router}
    for name in names:
        if name not in routers:
            encoder = OnnxEncoder.load(release / "scope", name, provider, threads)
            routers[name] = _stored(release, encoder, workload, size, scratch / name)
    calls = {name: (lambda text, of=routers[name]: of.route([text])) for name in names}
    texts = [query.text for query in asked]
    _alternate(calls, texts[:WARM_UP])
    spent = _alternate(calls, texts)
    in_scope = [n for n, query in enumerate(asked) if query.part == "in_scope"]
    rates = _per_second({name: routers[name].route for name in names}, texts)
    found: dict[str, Any] = {"edits": size}
    of_mix = _figures(spent)
    of_scope = _figures({name: [ns[n] for n in in_scope] for name, ns in spent.items()})
    for name in names:
        found[name] = {
            "router": of_mix[name],
            "in_scope": of_scope[name],
            "per_second": rates[name],
        }
    found["ratio"] = {
        "mean": of_mix["int8"]["mean"] / of_mix["fp32"]["mean"],
        "in_scope_p50": of_scope["int8"]["p50"] / of_scope["fp32"]["p50"],
        "per_second": rates["int8"] / rates["fp32"],
    }
    return found
