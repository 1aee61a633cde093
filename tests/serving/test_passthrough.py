"""Out of scope: what reaches the upstream and what comes back are what they would be without."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import httpx
import pytest
from processes import QUERY_KEY, UPSTREAM_KEY, Router
from threads import serving
from traffic import Asked, some_requests

HOP = {"connection", "keep-alive", "transfer-encoding", "date", "server"}


def raw(url: str, asked: Asked, key: str | None = None, method: str = "POST"):
    """Status, headers and undecoded body of an answer."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
    headers = {**asked.headers, **({"Authorization": f"Bearer {key}"} if key else {})}
    connection.request(method, asked.path, asked.body or None, headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    kept = sorted((name.lower(), value) for name, value in answer.getheaders())
    kept = [(name, value) for name, value in kept if name not in HOP]
    return answer.status, kept, body


def without_ours(headers):
    return [header for header in headers if not header[0].startswith("x-serac-")]


def assert_identical(router: Router, requests: list[Asked]) -> None:
    httpx.get(f"{router.upstream}/asked")
    for asked in requests:
        direct = raw(router.upstream, asked, UPSTREAM_KEY)
        routed = raw(router.url, asked, QUERY_KEY)
        assert routed[0] == direct[0], asked
        assert routed[2] == direct[2], asked
        assert without_ours(routed[1]) == direct[1], asked
        assert dict(routed[1])["x-serac-route"] in ("base", "unrouted")
    seen = httpx.get(f"{router.upstream}/asked").json()["asked"]
    assert len(seen) == 2 * len(requests)
    for direct, routed in zip(seen[::2], seen[1::2], strict=True):
        for one in (direct, routed):
            one["headers"] = sorted(header for header in one["headers"] if header[0] != "host")
        assert direct == routed


def test_traffic_is_identical_in_bytes_and_events(router: Router) -> None:
    assert_identical(router, some_requests(200, seed=1))


@pytest.mark.soak
def test_much_traffic_is_identical(router: Router) -> None:
    assert_identical(router, some_requests(2000, seed=2))


@pytest.mark.parametrize("model", ["status-404", "status-429", "status-500", "junk", "redirect"])
def test_what_the_upstream_says_is_said_on_whatever_it_is(router: Router, model: str) -> None:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]})
    asked = Asked("/v1/chat/completions", body.encode(), {"content-type": "application/json"})
    direct, routed = raw(router.upstream, asked), raw(router.url, asked, QUERY_KEY)
    assert (routed[0], routed[2]) == (direct[0], direct[2])


def test_models_and_further_paths_go_to_the_upstream(router: Router) -> None:
    models = Asked("/v1/models", b"")
    assert raw(router.url, models, QUERY_KEY, "GET") == raw(router.upstream, models, None, "GET")
    asked = Asked("/v1/embeddings", b'{"model": "other", "input": "x"}')
    assert raw(router.url, asked, QUERY_KEY)[2] == raw(router.upstream, asked)[2]
    assert raw(router.url, Asked("/v1/load_lora_adapter", b"{}"), QUERY_KEY)[0] == 404


def test_headers_of_this_hop_stay_here(router: Router) -> None:
    httpx.get(f"{router.upstream}/asked")
    headers = {
        "connection": "x-mine, keep-alive",
        "x-mine": "1",
        "te": "trailers",
        "proxy-authorization": "Basic secret",
        "x-latin": "caf\xe9",
        "content-type": "application/json",
    }
    asked = Asked(
        "/v1/chat/completions", b'{"model": "m", "messages": [{"role": "tool"}]}', headers
    )
    assert raw(router.url, asked, QUERY_KEY)[0] == 200
    (seen,) = httpx.get(f"{router.upstream}/asked").json()["asked"]
    names = {name for name, _ in seen["headers"]}
    assert not names & {"x-mine", "te", "proxy-authorization", "x-serac-key"}
    assert dict(seen["headers"])["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert QUERY_KEY not in json.dumps(seen)


def test_the_clients_authorization_is_sent_on_only_where_asked_for(release, upstream) -> None:
    with serving(release, upstream, keys=True, forward_authorization=True) as (url, _):
        httpx.get(f"{upstream}/asked")
        body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
        asked = Asked("/v1/chat/completions", body, {"x-serac-key": QUERY_KEY})
        assert raw(url, asked, "the-clients-own")[0] == 200
        assert raw(url, Asked(asked.path, body), QUERY_KEY)[0] == 401
        (seen,) = httpx.get(f"{upstream}/asked").json()["asked"]
        assert dict(seen["headers"])["authorization"] == "Bearer the-clients-own"
        assert QUERY_KEY not in json.dumps(seen)


def test_with_routing_off_everything_goes_to_the_base(release, upstream) -> None:
    with serving(release, upstream, routing="off") as (url, _):
        question = {"role": "user", "content": "The capital of France is"}
        body = json.dumps({"model": "other", "messages": [question]}).encode()
        asked = Asked("/v1/chat/completions", body)
        status, headers, said = raw(url, asked)
        assert (status, said) == (200, raw(upstream, asked)[2])
        assert ("x-serac-reason", "routing-off") in headers
