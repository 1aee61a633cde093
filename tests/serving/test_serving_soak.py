"""Load for a minute and a hundred thousand requests: no error, nothing that grows."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import aiohttp
import psutil
import pytest
from processes import Router

QUESTIONS = [
    "Tell me a joke about tea",
    "What is the capital of Norway?",
    "Who wrote bread in France?",
    "hello " * 50,
]
_FAULTS = ["cut", "junk", "status-500", "cut-stream"]


async def clients(router: Router, count: int, requests: int, seconds: float) -> Counter[object]:
    """So many clients ask until so many requests or seconds are over; statuses by number.

    One request in forty has a fault of the upstream's, one in forty is left midway.
    """
    seen: Counter[object] = Counter()
    ends = time.monotonic() + seconds
    numbers = iter(range(requests))

    async def client(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            if time.monotonic() > ends:
                return
            body: dict[str, object] = {
                "model": "other",
                "stream": number % 3 == 0,
                "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
            }
            left = number % 40 == 7
            if number % 40 == 11:
                body = {**body, "model": _FAULTS[number // 40 % 4]}
            if left:
                body = {**body, "model": "slow", "messages": [{"role": "user", "content": "x"}]}
            timeout = aiohttp.ClientTimeout(total=0.05 if left else 120)
            try:
                url = f"{router.url}/v1/chat/completions"
                async with session.post(url, json=body, timeout=timeout) as answer:
                    await answer.read()
                    seen[answer.status] += 1
            except TimeoutError:
                seen["left"] += 1
            except aiohttp.ClientPayloadError:
                seen["cut"] += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=router.headers) as session:
        await asyncio.gather(*(client(session) for _ in range(count)))
    return seen


def resources(router: Router) -> tuple[float, int, int]:
    """Megabytes, open files and threads of the router."""
    process = psutil.Process(router.process.pid)
    return process.memory_info().rss / 1e6, process.num_fds(), process.num_threads()


@pytest.mark.soak
def test_two_hundred_clients_for_a_minute(router: Router) -> None:
    seen = asyncio.run(clients(router, 200, 1 << 40, 60))
    print(json.dumps({str(key): count for key, count in seen.items()}))
    assert not set(seen) - {200, 500, "left", "cut"} and seen[200] > 1000
    assert "Traceback" not in router.log.read_text()


@pytest.mark.soak
def test_nothing_grows_over_a_hundred_thousand_requests(router: Router) -> None:
    grow_at_most(router, 100_000)


def grow_at_most(router: Router, requests: int, megabytes: float = 40) -> None:
    asyncio.run(clients(router, 50, requests // 10, 3600))
    before = resources(router)
    asyncio.run(clients(router, 50, requests, 3600))
    time.sleep(5)  # idle connections to the upstream end
    after = resources(router)
    print(f"{requests} requests: MB, files, threads {before} -> {after}")
    assert after[0] - before[0] < megabytes
    assert after[1] <= before[1] + 5 and after[2] <= before[2] + 2


def test_every_setting_is_documented() -> None:
    from serac_core.serving.settings import ServingSettings

    page = (Path(__file__).parents[2] / "docs/serving.md").read_text()
    for name, field in ServingSettings.model_fields.items():
        assert f"| `{name}` |" in page and (field.description or "") in page, name
