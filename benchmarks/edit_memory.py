"""What a large edit memory costs: to build, load, keep, ask and change.

    python benchmarks/edit_memory.py --encoder build/scope/onnx [--edits 1000000] [--subjects FILE]

The edits are about as many different subjects, in a prompt of each of 25 relations of the world, so
that they share 25 keys. Subjects are the lines of a file, or two names of the world together. What
is added has keys of its own. Times are those of the clock and, in brackets, of the processor: on a
machine that does other things the second are the ones to compare. Loading and asking are measured
in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import TypeVar

import psutil

from serac_core.edits.record import Edit
from serac_core.scope.live_memory import LiveMemory
from serac_core.scope.memory import EditMemory
from serac_core.scope.router import Router
from serac_core.scope.session import OnnxEncoder

T = TypeVar("T")
RELATIONS = 25
BASE = 100_000
ADDED = 1_000
TURNS = 2
ASKED = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", type=Path, default=Path("build/scope/onnx"))
    parser.add_argument("--edits", type=int, default=1_000_000)
    parser.add_argument("--subjects", type=Path, help="a name a line")
    parser.add_argument("--world", type=Path, default=Path("data/world"))
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    templates = _templates(asked.world)
    names = _names(asked.world, asked.subjects, asked.edits)
    edits = [_edit(n, name, templates[n % RELATIONS]) for n, name in enumerate(names)]
    encoder = OnnxEncoder.load(asked.encoder, threads=asked.threads)
    _ = encoder.scorer
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _add(folder / "base", encoder, edits[:BASE], templates)
        _build(folder / "all", encoder, edits)
        queries = [_question(edit) for edit in Random(1).sample(edits, min(ASKED, len(edits)))]
        reader = multiprocessing.get_context("spawn").Process(
            target=_read, args=(folder / "all", asked.encoder, asked.threads, queries)
        )
        reader.start()
        reader.join()


def _build(folder: Path, encoder: OnnxEncoder, edits: Sequence[Edit]) -> None:
    memory = _timed(f"build of {len(edits)} edits", lambda: EditMemory.build(edits, encoder))
    _timed("  and write", lambda: memory.save(folder))
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{'  on disk':<44} {size / 1e6:9.0f} MB")


def _read(folder: Path, encoder_dir: Path, threads: int, queries: Sequence[str]) -> None:
    encoder = OnnxEncoder.load(encoder_dir, threads=threads)
    _ = encoder.scorer
    encoder.encode(queries[:8])
    before = psutil.Process().memory_info().rss
    memory = _timed("load", lambda: EditMemory.load(folder, encoder.digest))
    router = Router(encoder, memory, 0.5)
    for kind, asked in (("naming one", queries), ("shuffled", [_shuffled(q) for q in queries])):
        spent = []
        for query in asked:
            started = time.perf_counter()
            memory.subjects.find(query)
            spent.append((time.perf_counter() - started) * 1000)
        words = statistics.mean(len(query.split()) for query in asked)
        print(
            f"{f'subjects in a query of {words:.0f} words, {kind}':<44} "
            f"{statistics.median(spent):9.3f} ms  mean {statistics.mean(spent):.3f} ms"
        )
    decisions = router.route(queries[:256])
    named = sum(decision.nearest_edit_id is not None for decision in decisions)
    print(f"{'queries that found an edit':<44} {named:9d} of {len(decisions)}")
    after = psutil.Process().memory_info().rss
    print(f"{'resident, encoder and cohort alone':<44} {before / 1e6:9.0f} MB")
    print(f"{'resident, with the memory, after routing':<44} {after / 1e6:9.0f} MB")


def _add(
    folder: Path, encoder: OnnxEncoder, edits: Sequence[Edit], templates: Sequence[str]
) -> None:
    """Edits with keys of their own, beside encoding those keys alone; in turns."""
    EditMemory.build(edits, encoder).save(folder)
    live = LiveMemory.open(folder, [encoder])
    arms: dict[str, list[float]] = {"encoding alone": [], "added": []}
    for turn in range(TURNS):
        new = [
            _edit(len(edits) + n, f"Added {n}", f"{templates[n % RELATIONS]} (wording {n})")
            for n in range(turn * ADDED, (turn + 1) * ADDED)
        ]
        keys = [edit.prompt.replace(edit.subject or "", "X") for edit in new]
        for name, run in (
            ("encoding alone", lambda keys=keys: encoder.encode(keys)),
            ("added", lambda new=new: live.add(new)),
        ):
            started = time.process_time()
            run()
            arms[name].append(time.process_time() - started)
    for name, times in arms.items():
        print(f"{f'{ADDED} keys, {name}':<44} {statistics.median(times):9.2f} s of the processor")
    share = sum(arms["added"]) / sum(arms["encoding alone"]) - 1
    print(f"{f'  beyond encoding, to {len(edits)} edits':<44} {share:9.1%}")
    _timed("retract 1", lambda: live.retract([f"e{len(edits) + 7}"]))


def _timed(name: str, run: Callable[[], T]) -> T:
    started, worked = time.perf_counter(), time.process_time()
    result = run()
    clock, processor = time.perf_counter() - started, time.process_time() - worked
    print(f"{name:<44} {clock:9.2f} s  ({processor:.2f} s)", flush=True)
    return result


def _templates(world: Path) -> list[str]:
    """A prompt with `{subject}` of each of 25 relations."""
    found = []
    for path in sorted(world.glob("*.json")):
        phrasings = json.loads(path.read_text(encoding="utf-8"))["phrasings"]["train"]
        found.append(next(wording for wording in phrasings if "{subject}" in wording))
    return found[:RELATIONS]


def _names(world: Path, given: Path | None, number: int) -> list[str]:
    if given is not None:
        lines = given.read_text(encoding="utf-8").splitlines()
        names = dict.fromkeys(line.strip() for line in lines if line.strip())
        return list(islice(names, number))
    files = sorted((world / "subjects").glob("*.txt"))
    words = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    rng = Random(0)
    made: dict[str, None] = {}
    for turn in count():
        if len(made) >= number:
            break
        one, other = rng.choice(words).strip(), rng.choice(words).strip()
        made[f"{one} {other}" if turn % 3 else f"{one} of {other}"] = None
    return list(made)


def _edit(number: int, name: str, template: str) -> Edit:
    prompt = template.replace("{subject}", name)
    return Edit(id=f"e{number}", prompt=prompt, subject=name, target_new="x")


def _question(edit: Edit) -> str:
    """About fifteen words that name the edit's subject."""
    return f"I would really like to know this one thing: {edit.prompt}"


def _shuffled(query: str) -> str:
    return " ".join(Random(query).sample(query.split(), len(query.split())))


if __name__ == "__main__":
    main()
