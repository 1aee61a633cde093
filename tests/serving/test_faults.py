"""What goes wrong around the router: the upstream, the client, the scope router, the disk."""

from __future__ import annotations

import json
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest
from processes import Router, run_upstream
from threads import serving

IN_SCOPE = "What is the capital of France?"


def ask(url: str, model: str = "other", text: str = "hello", headers=None, **fields):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def metric(url: str, line: str) -> float:
    found = [row for row in httpx.get(f"{url}/metrics").text.splitlines() if row.startswith(line)]
    return sum(float(row.rpartition(" ")[2]) for row in found)


def test_a_dead_upstream_is_a_502_and_edited_answers_go_on(release, tmp_path) -> None:
    with run_upstream(tmp_path) as gone:
        pass
    with serving(release, gone, upstream_retries=1) as (url, _):
        answer = ask(url)
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_unreachable"
        assert answer.headers["x-serac-route"] == "base"
        assert ask(url, text=IN_SCOPE).status_code == 200
        assert httpx.get(f"{url}/v1/models").status_code == 502
        assert httpx.get(f"{url}/readyz").status_code == 200
        assert metric(url, "serac_upstream_retries_total") >= 2
        assert metric(url, 'serac_upstream_failures_total{cause="unreachable"}') >= 2
        with run_upstream(tmp_path, urlsplit(gone).port):  # back again
            assert ask(url).status_code == 200


def test_an_upstream_that_says_nothing_is_a_504(release, upstream) -> None:
    with serving(release, upstream, upstream_timeout=0.2) as (url, _):
        answer = ask(url, "silent")
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
        assert metric(url, 'serac_upstream_failures_total{cause="timeout"}') == 1


def test_a_slow_upstream_is_waited_for(router: Router) -> None:
    assert ask(router.url, "slow", headers=router.headers).json().keys() == {"slow"}


@pytest.mark.parametrize(("model", "stream"), [("cut", False), ("cut-stream", True)])
def test_what_the_upstream_cuts_short_ends_short(router: Router, model: str, stream: bool) -> None:
    def received(url: str) -> bytes:
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": stream}
        got = b""
        with (
            pytest.raises(httpx.RemoteProtocolError),
            httpx.stream(
                "POST", f"{url}/v1/chat/completions", json=body, headers=router.headers
            ) as answer,
        ):
            for chunk in answer.iter_raw():
                got += chunk
        return got

    assert received(router.url) == received(router.upstream) != b""
    assert "Traceback" not in router.log.read_text()


@pytest.mark.parametrize(
    "said", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x00\xff" * 99]
)
def test_an_upstream_that_speaks_no_http_is_a_502(release, said: bytes) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(10)
        with serving(release, f"http://127.0.0.1:{listening.getsockname()[1]}") as (url, _):
            where = urlsplit(url)
            with socket.create_connection((where.hostname, where.port), 10) as client:
                body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]})
                client.sendall(
                    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
                    f"content-length: {len(body)}\r\n\r\n{body}".encode()
                )
                connection, _ = listening.accept()
                connection.recv(10_000)
                connection.sendall(said)
                connection.close()
                assert client.recv(10_000).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_upstreams_work(router: Router, stream: bool) -> None:
    left = httpx.get(f"{router.upstream}/asked").json()["left"]
    body = {"model": "silent", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{router.url}/v1/chat/completions", json=body, headers=router.headers, timeout=0.3
        )
    for _ in range(100):
        if httpx.get(f"{router.upstream}/asked").json()["left"] == left + 1:
            return
        time.sleep(0.02)
    raise AssertionError("the upstream goes on for nobody")


class BrokenRouter:
    """In the place of a release's router: names are found, everything else fails."""

    def __init__(self, router, error) -> None:
        self.memory = router.memory
        self._error = error

    def route(self, queries):
        if self._error is None:
            time.sleep(0.5)
            return []
        raise self._error


@pytest.mark.parametrize("error", [RuntimeError("the encoder is broken"), None])
@pytest.mark.parametrize("policy", ["open", "closed"])
def test_a_failing_scope_router(release, upstream, policy: str, error, caplog) -> None:
    options = {"on_router_failure": policy, "routing_timeout": 0.1}
    with serving(release, upstream, **options) as (url, server):
        with server._state.lease() as held:
            held._router = BrokenRouter(held.router, error)
        answer = ask(url, text=IN_SCOPE)
        if policy == "open":
            assert answer.status_code == 200
            assert answer.headers["x-serac-reason"] == "router-failed"
            assert answer.json()["choices"][0]["message"]["content"].startswith("upstream ")
        else:
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "router_failed"
        assert httpx.post(f"{url}/route", json={"query": IN_SCOPE}).status_code == 503
        cause = "timeout" if error is None else "error"
        line = f'serac_router_failures_total{{cause="{cause}",done="{policy}"}}'
        assert metric(url, line) == 2


def test_without_a_release_nothing_is_ready(release, upstream) -> None:
    with serving(release, upstream) as (url, server):
        server._state.holder.swap(None)
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert httpx.get(f"{url}/healthz").status_code == 200
        answer = httpx.post(f"{url}/route", json={"query": "x"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_release")
        assert ask(url, text=IN_SCOPE).headers["x-serac-reason"] == "router-failed"
        assert "serac_edits 0.0" in httpx.get(f"{url}/metrics").text
