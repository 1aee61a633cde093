"""Releases change under clients of a running server: nobody notices but by the answers."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
from processes import Router, run_router
from published import Registry, corrupt, make_newer, truncate
from swap_release import make_edits, write_release

pytestmark = pytest.mark.usefixtures("isolated")

QUERY = "The capital of France is"
GOOD = {"serac@v1.0.0": "e-lyon", "serac@v1.1.0": "e-nice"}
BAD = {"serac@v1.2.0": corrupt, "serac@v1.3.0": truncate, "serac@v1.4.0": make_newer}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Registry:
    """Two good releases, of which v1.0.0 is the champion, and a bad one of each kind."""
    folder = tmp_path_factory.mktemp("registry")
    made = Registry(folder)
    for target in ("Lyon", "Nice"):
        edits = make_edits(((f"e-{target.lower()}", QUERY, "France", target),))
        release = write_release(folder / target, edits, base=str(base_model))
        made.publish(release, promoted=target == "Lyon")
    for spoil in BAD.values():
        bad = shutil.copytree(folder / "Nice", folder / spoil.__name__)
        spoil(bad)
        made.publish(bad, promoted=False)
    return made


@pytest.fixture
def following(
    registry: Registry, upstream: str, tmp_path: Path, isolated: None
) -> Iterator[Router]:
    """A router that looks at the registry when it is told to."""
    registry.promote("v1.0.0")
    settings = {
        "release": "",
        "stage": "prod",
        "repository": str(registry.checkout),
        "poll_seconds": 3600,
        "device": "cpu",
    }
    seen = (
        "HOME",
        "XDG_CONFIG_HOME",
        "XDG_CACHE_HOME",
        "DVC_SITE_CACHE_DIR",
        "GIT_CONFIG_NOSYSTEM",
    )
    environment = {name: os.environ[name] for name in seen}
    with run_router(tmp_path, Path(), upstream, settings, environment) as router:
        yield router


@dataclass
class Seen:
    """What clients saw: when an answer was asked for and there, and which release it names; and
    the server's resident bytes after each swap."""

    memory: list[int] = field(default_factory=list)
    answers: list[tuple[float, float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def use(router: Router, number: int, ended: threading.Event, seen: Seen) -> None:
    """One client: decisions, both answers, chats in scope and out of it, a stream."""
    chat = {"model": "tiny-chat", "messages": [{"role": "user", "content": QUERY}]}
    joke = {**chat, "messages": [{"role": "user", "content": "Tell me a joke"}], "stream": True}
    asks = (
        ("/route", {"query": QUERY}),
        ("/v1/chat/completions", {**chat, "max_tokens": 4}),
        ("/answer", {"query": QUERY, "max_tokens": 4}),
        ("/v1/chat/completions", joke),
    )
    async with httpx.AsyncClient(
        base_url=router.url, headers=router.headers, timeout=120
    ) as client:
        for path, body in itertools.islice(itertools.cycle(asks), number % len(asks), None):
            if ended.is_set():
                return
            began = time.monotonic()
            try:
                answer = await client.post(path, json=body)
                assert answer.status_code == 200, answer.text
                if path.startswith("/v1"):
                    release = answer.headers["x-serac-release"]
                    edit = answer.headers.get("x-serac-edit-id")
                    if body is joke:
                        assert edit is None and answer.text.rstrip().endswith("[DONE]")
                else:
                    found = answer.json()
                    release = found["release"]
                    edit = found.get("edit_id") or found["decisions"][0]["edit_id"]
                assert body is joke or edit == GOOD[release]
                seen.answers.append((began, time.monotonic(), release))
            except Exception as error:
                seen.failures.append(f"{path}: {type(error).__name__}: {error}")


def drained(router: Router) -> None:
    while True:
        following = httpx.get(f"{router.url}/release", headers=router.headers).json()["following"]
        if not following["draining"]:
            return
        time.sleep(0.02)


def swap_under_load(
    router: Router, registry: Registry, *, swaps: int, clients: int, bad_every: int
) -> Seen:
    seen, ended = Seen(), threading.Event()
    process = psutil.Process(router.process.pid)

    async def crowd() -> None:
        await asyncio.gather(*(use(router, n, ended, seen) for n in range(clients)))

    thread = threading.Thread(target=asyncio.run, args=(crowd(),))
    thread.start()
    changes: list[tuple[float, float, str]] = []
    refused: list[str] = []
    bad, good = itertools.cycle(BAD), itertools.cycle(reversed(GOOD))
    answering = "serac@v1.0.0"

    def reload() -> dict[str, object]:
        found = httpx.post(f"{router.url}/reload", headers=router.admin, timeout=300)
        assert found.status_code == 200, found.text
        return dict(found.json())

    try:
        for number in range(1, swaps + 1):
            if number % bad_every == 0:
                wanted = next(bad)
                registry.promote(wanted.partition("@")[2])
                found = reload()
                assert (found["outcome"], found["release"]) == ("refused", answering)
                refused.append(wanted)
            answering = next(good)
            registry.promote(answering.partition("@")[2])
            began = time.monotonic()
            found = reload()
            assert (found["outcome"], found["release"]) == ("swapped", answering)
            changes.append((began, time.monotonic(), answering))
            drained(router)
            seen.memory.append(process.memory_info().rss)
    finally:
        ended.set()
        thread.join(120)
    assert len(refused) == swaps // bad_every
    check(seen, changes)
    return seen


def check(seen: Seen, changes: list[tuple[float, float, str]]) -> None:
    """No failure, and no answer by a release that had been replaced when it was asked."""
    assert seen.failures == []
    ends = [*(began for began, _, _ in changes[1:]), float("inf")]
    for (_, done, release), end in zip(changes, ends, strict=True):
        late = {r for asked, there, r in seen.answers if asked > done and there < end}
        assert late <= {release}


def test_swaps_under_clients(following: Router, registry: Registry) -> None:
    seen = swap_under_load(following, registry, swaps=4, clients=8, bad_every=4)
    assert {release for _, _, release in seen.answers} == set(GOOD)
    text = httpx.get(f"{following.url}/metrics").text
    for line in (
        "serac_release_swaps_total 5.0",
        "serac_release_refusals_total 1.0",
        "serac_follow_ok 1.0",
        "serac_releases_draining 0.0",
    ):
        assert line in text.splitlines()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_swaps_under_fifty_clients_over_http(
    following: Router, registry: Registry
) -> None:
    began = time.monotonic()
    seen = swap_under_load(following, registry, swaps=100, clients=50, bad_every=7)
    grown = (seen.memory[-1] - seen.memory[20]) / 2**20
    print(
        f"100 swaps, 14 bad releases refused, 50 clients: {len(seen.answers)} answers in "
        f"{time.monotonic() - began:.0f} s, none failed, none by a release that had been "
        f"replaced; from the 20th swap on the server's memory grew by {grown:.0f} MiB"
    )
    assert grown < 100
