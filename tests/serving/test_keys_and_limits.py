"""Who may do what, how much, and how the server ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from processes import ADMIN_KEY, QUERY_KEY, UPSTREAM_KEY, Router, run_router
from threads import serving

from serac_core.cli import main
from serac_core.serving.keys import BadKeys, Keys, load_keys
from serac_core.serving.server import RouterServer
from serac_core.serving.settings import load_settings

CHAT = {"model": "other", "messages": [{"role": "user", "content": "x"}]}
EDIT = {"edit": {"prompt": "The capital of Peru is", "target_new": "Cusco", "subject": "Peru"}}
# method, path, body, then the status without a key, with one of clients, of administrators
ENDPOINTS = [
    ("GET", "/healthz", None, 200, 200, 200),
    ("GET", "/readyz", None, 200, 200, 200),
    ("GET", "/openapi.json", None, 200, 200, 200),
    ("GET", "/metrics", None, 200, 200, 200),
    ("GET", "/", None, 200, 200, 200),
    ("GET", "/static/app.js", None, 200, 200, 200),
    ("GET", "/release/report", None, 401, 404, 404),  # a tiny release has none
    ("POST", "/v1/chat/completions", CHAT, 401, 200, 200),
    ("POST", "/v1/completions", {"model": "m", "prompt": "x"}, 401, 200, 200),
    ("GET", "/v1/models", None, 401, 200, 200),
    ("GET", "/v1/models/x", None, 401, 400, 400),  # the upstream's own answer
    ("POST", "/v1/embeddings", {"model": "m"}, 401, 200, 200),
    ("POST", "/route", {"query": "x"}, 401, 200, 200),
    ("POST", "/explain", {"query": "x"}, 401, 200, 200),
    ("POST", "/answer", {"query": "x"}, 401, 200, 200),
    ("GET", "/edits", None, 401, 200, 200),
    ("GET", "/release", None, 401, 200, 200),
    ("POST", "/edits", EDIT, 401, 403, 202),
    ("GET", "/edits/queue/q-0000000000000000", None, 401, 403, 404),
    ("POST", "/reload", None, 401, 403, 200),
    ("GET", "/nothing", None, 401, 404, 404),
    ("DELETE", "/edits", None, 401, 405, 405),
    ("OPTIONS", "/v1/chat/completions", None, 401, 405, 405),
]


@pytest.mark.parametrize(("method", "path", "body", "none", "query", "admin"), ENDPOINTS)
def test_each_key_does_what_it_should(router: Router, method, path, body, none, query, admin):
    def status(headers) -> int:
        answer = httpx.request(method, router.url + path, json=body, headers=headers, timeout=30)
        assert not any(name.startswith("access-control") for name in answer.headers)
        return answer.status_code

    assert status({}) == none
    assert status(router.headers) == query
    assert status(router.admin) == admin
    unknown = [
        f"Bearer {QUERY_KEY}x",
        f"Bearer {UPSTREAM_KEY}",
        QUERY_KEY[:-1],
        "Bearer \xff",
        "Basic x",
    ]
    for key in unknown:
        assert status({"authorization": key.encode("latin-1")}) == none


def test_every_endpoint_is_in_the_table(router: Router) -> None:
    paths = httpx.get(f"{router.url}/openapi.json").json()["paths"]
    described = {(m.upper(), path) for path, methods in paths.items() for m in methods}
    tested = {
        (method, path.replace("q-" + "0" * 16, "{queue_id}")) for method, path, *_ in ENDPOINTS
    }
    assert described <= tested


def test_no_key_in_log_or_metrics(router: Router) -> None:
    for key in (QUERY_KEY, ADMIN_KEY, UPSTREAM_KEY):
        for path in ("/metrics", f"/nothing?api_key={key}", f"/{key}"):
            answer = httpx.get(router.url + path, headers={"authorization": f"Bearer {key}"})
            assert answer.status_code in (200, 401, 404)
    said = router.log.read_text() + httpx.get(f"{router.url}/metrics").text
    assert not any(key in said for key in (QUERY_KEY, ADMIN_KEY, UPSTREAM_KEY))
    assert QUERY_KEY not in repr(Keys.of([QUERY_KEY]))


def test_without_an_admin_key_nobody_administrates(release) -> None:
    with serving(release) as (url, _):
        assert httpx.post(f"{url}/route", json={"query": "x"}).status_code == 200
        for headers in ({}, {"authorization": "Bearer x"}):
            answer = httpx.post(f"{url}/reload", headers=headers)
            assert answer.status_code == 403 and "no admin key" in answer.text


def settings(**given: object):
    return load_settings(None, {"release": "x", **given})


@pytest.mark.parametrize(
    ("given", "environment", "told"),
    [
        ({}, {"SERAC_QUERY_KEYS": "short"}, "a key of 5 characters"),
        ({}, {"SERAC_ADMIN_KEYS": "spaces in a long key here"}, "without spaces"),
        ({}, {"SERAC_QUERY_KEYS": QUERY_KEY, "SERAC_ADMIN_KEYS": QUERY_KEY}, "both"),
        ({"query_keys_file": "/nowhere"}, {}, "/nowhere: not readable"),
        ({"host": "0.0.0.0"}, {"SERAC_ADMIN_KEYS": ADMIN_KEY}, "can be reached by others"),
    ],
)
def test_unusable_keys_are_refused_at_the_start(given, environment, told) -> None:
    with pytest.raises(BadKeys, match=told):
        load_keys(settings(**given), environment)


def test_keys_of_a_file(tmp_path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# clients\n{QUERY_KEY}\n\n  another-key-00000000  \n")
    keys = load_keys(settings(query_keys_file=str(file)), {"SERAC_ADMIN_KEYS": ADMIN_KEY})
    assert [keys.role_of(k) for k in (QUERY_KEY, "another-key-00000000", ADMIN_KEY, "x", None)] == [
        "query", "query", "admin", None, "open",
    ]  # fmt: skip
    load_keys(settings(host="0.0.0.0", allow_without_keys=True), {})


def test_oversize_and_slow_bodies(release, upstream) -> None:
    with serving(release, upstream, max_body_bytes=2000, body_timeout=0.3) as (url, _):
        large = json.dumps({"query": "x" * 3000}).encode()

        def pieces():
            for first in range(0, len(large), 100):
                yield large[first : first + 100]

        for content in (large, pieces()):  # of a known length, and chunked
            for path in ("/route", "/v1/chat/completions"):
                if content is not large:
                    content = pieces()
                answer = httpx.post(url + path, content=content)
                assert answer.status_code == 413
                assert answer.json()["error"]["code"] == "request_too_large"
        where = urlsplit(url)
        for sent in (b"", b"{"):
            with socket.create_connection((where.hostname, where.port), 10) as client:
                client.sendall(
                    b"POST /route HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n" + sent
                )
                assert client.recv(10_000).startswith(b"HTTP/1.1 408 ")


@contextmanager
def held_up(server: RouterServer) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The router of the release waits for the second event, once it has set the first."""
    began, may_go = threading.Event(), threading.Event()
    with server._state.lease() as held:
        route = held.router.route

        def waiting(queries):
            began.set()
            assert may_go.wait(30)
            return route(queries)

        held.router.route = waiting
    try:
        yield began, may_go
    finally:
        may_go.set()


def test_more_than_can_wait_is_told_to_come_back(release, upstream) -> None:
    query = {"query": "The capital of France is"}
    with (
        serving(release, upstream, batch_queries=2, waiting_queries=4, routing_timeout=30) as (
            url,
            server,
        ),
        ThreadPoolExecutor(5) as pool,
        held_up(server) as (began, may_go),
    ):
        first = pool.submit(httpx.post, f"{url}/route", json=query, timeout=30)
        assert began.wait(10)
        others = [pool.submit(httpx.post, f"{url}/route", json=query, timeout=30) for _ in range(4)]
        while 'serac_waiting{stage="route"} 4.0' not in httpx.get(f"{url}/metrics").text:
            pass
        answer = httpx.post(f"{url}/route", json=query)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error"]["type"] == "rate_limit_error"
        may_go.set()
        assert [made.result().status_code for made in (first, *others)] == [200] * 5


def test_more_requests_than_may_be_under_way(release) -> None:
    query = {"query": "The capital of France is"}
    with (
        serving(release, max_requests=2, routing_timeout=30) as (url, server),
        ThreadPoolExecutor(2) as pool,
        held_up(server) as (_, may_go),
    ):
        held = [pool.submit(httpx.post, f"{url}/route", json=query, timeout=30) for _ in range(2)]
        while "serac_open_requests 3.0" not in httpx.get(f"{url}/metrics").text:
            pass
        answer = httpx.post(f"{url}/route", json=query)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert httpx.get(f"{url}/healthz").status_code == 200
        may_go.set()
        assert [made.result().status_code for made in held] == [200, 200]


def test_sigterm_drains(release, upstream, tmp_path) -> None:
    with (
        run_router(tmp_path, release, upstream, {"drain_delay": 1.0}) as running,
        ThreadPoolExecutor(1) as pool,
    ):
        body = {**CHAT, "stream": True, "delay": 0.2}
        options = {"json": body, "headers": running.headers, "timeout": 30}
        begun = pool.submit(httpx.post, f"{running.url}/v1/chat/completions", **options)
        while "serac_open_requests 2.0" not in httpx.get(f"{running.url}/metrics").text:
            pass
        os.kill(running.process.pid, signal.SIGTERM)
        while httpx.get(f"{running.url}/readyz").status_code != 503:
            pass
        late = httpx.post(f"{running.url}/route", json={"query": "x"}, headers=running.headers)
        assert late.status_code == 200  # a load balancer may not have noticed yet
        assert begun.result().content.endswith(b"data: [DONE]\n\n")
        assert running.process.wait(20) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{running.url}/readyz")
        assert "Traceback" not in running.log.read_text()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("release: x\nunknown: 1\n", "unknown: unknown key"),
        ("port: 99999\nrelease: x\n", "port"),
        ("{}", "give either release"),
        ("release: x\nbase: ftp://x/v1\n", "http://HOST"),
        ("release: x\nbase: http://me:pw@x/v1\n", "upstream_key_file"),
        ("release: x\nedited_answers: upstream\n", "needs base to be a URL"),
        ("release: /nowhere\nbase: http://127.0.0.1:9/v1\n", "/nowhere"),
    ],
)
def test_bad_settings_are_told_at_the_start(
    tmp_path, monkeypatch, capsys, config: str, told: str
) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text(config)
    monkeypatch.setattr(sys, "argv", ["serac", "serve", "--config", str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and told in said and "remedy" in said
