"""What the router server costs: routing on beside routing off, beside the bare encoder.

    python benchmarks/serve_load.py --release .serac/releases/v1.0.0

In one run, on one machine, with an upstream that answers at once in a process of its own:

- added: each query goes alone to a router with routing on and to one with routing off, and through
  the bare encoder, one right after the other; p50 on less p50 off, in encoder passes.
- load: so many clients, each asking again as soon as it is answered, against either router in
  turns; requests a second, p50, p99, errors.
- batch: `POST /route` with 256 queries beside `Router.route` with the same.

The memory holds `--edits` edits, made of the release's; the mix is 90 % far, 5 % near misses, 5 %
in scope, answered by the release's counterfactual model (`--mix far` leaves those out).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
import yaml

from serac_core.edits.jsonl import read_active_edits, write_edits
from serac_core.evaluation.speed_workload import Query, Workload
from serac_core.release.manifest import MANIFEST, write_manifest
from serac_core.scope.memory import EditMemory
from serac_core.scope.router import Router
from serac_core.scope.session import OnnxEncoder

BATCH = 256
TURNS = 2
ROOT = Path(__file__).parents[1]
_ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "All right."}}],
}


async def upstream(scope, receive, send):  # type: ignore[no-untyped-def]
    """Answers at once; run by uvicorn."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    while (await receive()).get("more_body"):
        pass
    body = json.dumps(_ANSWER).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    asked = _arguments()
    settings = {
        key: yaml.safe_load(value) for key, _, value in (s.partition("=") for s in asked.set)
    }
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        workload = Workload(read_active_edits([asked.release / "edits.jsonl"]))
        release = _release(asked.release, folder / "release", workload, asked.edits)
        queries = workload.queries(asked.edits, 2000)
        if asked.mix == "far":
            queries = [query for query in queries if query.part == "far"]
        up = stack.enter_context(_upstream(folder))
        routers = {
            mode: stack.enter_context(_router(folder, release, up, mode, settings))
            for mode in ("off", "on")
        }
        router = Router.load(release, threads=settings.get("threads", 1))
        print(f"{asked.edits} edits, {len(queries)} queries, mix {asked.mix}", flush=True)
        asyncio.run(_added(routers, router, queries[: asked.queries]))
        asyncio.run(_load(routers, queries, asked.clients, asked.seconds))
        asyncio.run(_batches(routers["on"], router, [query.text for query in queries]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=400, help="asked one by one")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10, help="of load, each time")
    parser.add_argument("--mix", choices=("all", "far"), default="all")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the routers")
    return parser.parse_args()


async def _added(routers: dict[str, str], router: Router, queries: Sequence[Query]) -> None:
    """One client; the medians of each part of the mix."""
    spent: dict[str, list[float]] = {"off": [], "on": [], "encoder": []}
    async with aiohttp.ClientSession() as session:
        for number, query in enumerate([*queries[:50], *queries]):
            turns = ["off", "on", "encoder"]
            for mode in turns[number % 3 :] + turns[: number % 3]:
                began = time.perf_counter()
                if mode == "encoder":
                    router.encoder.encode([query.text])
                else:
                    await _ask(session, routers[mode], query.text)
                if number >= 50:
                    spent[mode].append((time.perf_counter() - began) * 1000)
    for part in ("all", "far", "near", "in_scope"):
        rows = [n for n, query in enumerate(queries) if part in ("all", query.part)]
        if not rows:
            continue
        of = {mode: statistics.median(times[n] for n in rows) for mode, times in spent.items()}
        added = of["on"] - of["off"]
        print(
            f"alone, {part:<9} off {of['off']:7.2f} ms  on {of['on']:7.2f} ms  encoder "
            f"{of['encoder']:6.2f} ms  added {added:6.2f} ms = {added / of['encoder']:5.2f} passes",
            flush=True,
        )


async def _load(
    routers: dict[str, str], queries: Sequence[Query], clients: int, seconds: float
) -> None:
    rates: dict[str, list[float]] = {"off": [], "on": []}
    for turn in range(TURNS):
        for mode in ("off", "on") if turn % 2 == 0 else ("on", "off"):
            rates[mode].append(await _rate(routers[mode], mode, queries, clients, seconds))
    ratio = sum(rates["on"]) / sum(rates["off"])
    print(f"{clients} clients: requests a second, on / off: {ratio:.2f}", flush=True)


async def _rate(
    url: str, mode: str, queries: Sequence[Query], clients: int, seconds: float
) -> float:
    spent: list[float] = []
    failed = 0
    ends = time.perf_counter() + seconds

    async def client(number: int, session: aiohttp.ClientSession) -> None:
        nonlocal failed
        place = number * 37
        while time.perf_counter() < ends:
            began = time.perf_counter()
            failed += not await _ask(session, url, queries[place % len(queries)].text)
            spent.append((time.perf_counter() - began) * 1000)
            place += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        began = time.perf_counter()
        await asyncio.gather(*(client(number, session) for number in range(clients)))
        took = time.perf_counter() - began
    spent.sort()
    p50, p99 = (spent[int(len(spent) * share)] for share in (0.5, 0.99))
    print(
        f"{clients} clients, {mode:<3} {len(spent) / took:7.0f}/s  p50 {p50:6.1f} ms  "
        f"p99 {p99:6.1f} ms  {failed} errors of {len(spent)}",
        flush=True,
    )
    return len(spent) / took


async def _ask(session: aiohttp.ClientSession, url: str, text: str) -> bool:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        await answer.read()
        return answer.status == 200


async def _batches(url: str, router: Router, texts: Sequence[str]) -> None:
    chunks = [texts[first : first + BATCH] for first in range(0, len(texts), BATCH)]
    spent = {"server": 0.0, "router": 0.0}
    async with aiohttp.ClientSession() as session:
        for turn in range(TURNS + 1):
            for chunk in chunks:
                began = time.perf_counter()
                async with session.post(f"{url}/route", json={"queries": chunk}) as answer:
                    assert len((await answer.json())["decisions"]) == len(chunk)
                between = time.perf_counter()
                router.route(chunk)
                if turn:  # the first warms up
                    spent["server"] += between - began
                    spent["router"] += time.perf_counter() - between
    rates = {name: TURNS * len(texts) / seconds for name, seconds in spent.items()}
    print(
        f"batches of {BATCH}: POST /route {rates['server']:.0f}/s, Router.route "
        f"{rates['router']:.0f}/s, ratio {rates['server'] / rates['router']:.2f}"
    )


def _release(source: Path, folder: Path, workload: Workload, edits: int) -> Path:
    """The release with another number of edits in its memory."""
    shutil.copytree(source, folder)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    chosen = workload.edits(edits)
    shutil.rmtree(folder / "memory")
    EditMemory.build(chosen, OnnxEncoder.load(folder / "scope"), batch_size=64).save(
        folder / "memory"
    )
    write_edits(folder / "edits.jsonl", chosen)
    base = manifest["base_model"]
    write_manifest(folder, base_model=base, edits=edits, params=manifest["params"])
    return folder


@contextmanager
def _upstream(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "benchmarks")]
    options = ["--port", "8191", "--log-level", "error", "--no-access-log", "serve_load:upstream"]
    process = subprocess.Popen([*command, *options], cwd=folder)
    try:
        yield "http://127.0.0.1:8191/v1"
    finally:
        process.kill()
        process.wait()


@contextmanager
def _router(
    folder: Path, release: Path, base: str, routing: str, settings: Mapping[str, object]
) -> Iterator[str]:
    """A router as `serac serve` starts it, on a port of its own."""
    port = {"off": 8192, "on": 8193}[routing]
    config = folder / f"{routing}.yaml"
    held = {"release": str(release), "base": base, "port": port, "routing": routing}
    config.write_text(yaml.safe_dump({**held, "checkout": str(folder), **settings}))
    process = subprocess.Popen(
        [sys.executable, "-m", "serac_core", "serve", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "serving on" in line:
                break
        else:
            raise RuntimeError("the router did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
