"""The server against its own description, and against requests that are none."""

from __future__ import annotations

import random
import socket
from urllib.parse import urlsplit

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from processes import QUERY_KEY, Router
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
FUZZED = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def examine(router: Router, key: str, examples: int) -> None:
    """Every operation, with data that the schema allows and data that it does not."""
    schema = schemathesis.openapi.from_url(f"{router.url}/openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/reload" and examples > 50:
            continue  # looks at the disk each time

        @settings(FUZZED, max_examples=examples)
        @_given(operation)
        def ask(case):
            answer = case.call(headers={"Authorization": f"Bearer {key}"}, timeout=30)
            case.validate_response(answer, checks=CHECKS)
            assert "Traceback" not in answer.text and 'File "' not in answer.text

        ask()
    assert router.process.poll() is None
    assert "Traceback" not in router.log.read_text()


def _given(operation):
    from hypothesis import given
    from hypothesis import strategies as st
    from schemathesis.generation import GenerationMode

    return given(
        case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))
    )


def test_it_does_what_its_description_says(router: Router) -> None:
    examine(router, router.admin["authorization"].removeprefix("Bearer "), 5)


@pytest.mark.soak
def test_it_does_what_its_description_says_at_length(router: Router) -> None:
    examine(router, router.admin["authorization"].removeprefix("Bearer "), 500)


PIECES = [
    b"", b"{", b"}", b"[]", b"null", b'"', b"\x00", b"\xff\xfe", b"1e999", b"NaN", b'{"model":',
    b'{"model": "m", "messages": ', b'[{"role": "user", "content": ', b"[" * 3000, b'"\\ud800"',
    b'{"query": ', b'{"queries": ', b'{"edit": ', b"true", b"-0", b'"x"', b"]", b"}", b",", b"\r\n",
    b'{"prompt": ["a", 1]}', b"9" * 400, b'"stream": true', b'"n": -1', b'"\\u0000"',
]  # fmt: skip
PATHS = [
    "/v1/chat/completions", "/v1/completions", "/route", "/explain", "/answer", "/edits", "/reload",
    "/edits?offset=-1", "/edits?limit=x", "/edits/queue/%00", "/edits/queue/../../etc/passwd",
    "/%ff", "//", "/v1/models/..%2f..", "/v1/chat/completions?%", "/static/..%2fapp.py", "*",
]  # fmt: skip
HEADERS = [
    b"content-length: 5", b"content-length: -1", b"content-length: 99999999999999",
    b"transfer-encoding: chunked", b"transfer-encoding: gzip", b"expect: 100-continue",
    b"content-type: text/xml", b"accept-encoding: \xff", b"connection: upgrade",
    b"upgrade: websocket", b"x: " + b"y" * 9000, b"host: \x00", b"content-type:",
    b"authorization: Basic ====", b"x-serac-key: \xc3\xa9",
]  # fmt: skip


def malformed(router: Router, count: int, seed: int) -> None:
    """Raw bytes of many kinds; each is answered, below 500, or the connection is closed."""
    rng = random.Random(seed)
    where = urlsplit(router.url)
    for _ in range(count):
        body = b"".join(rng.choices(PIECES, k=rng.randint(0, 5)))
        method = rng.choice([b"POST", b"POST", b"POST", b"GET", b"PUT", b"BREW", b""])
        lines = [method + b" " + rng.choice(PATHS).encode() + b" HTTP/1.1", b"host: x"]
        lines.append(b"authorization: Bearer " + QUERY_KEY.encode())
        lines += rng.sample(HEADERS, rng.randint(0, 2))
        if not any(b"content-length" in line for line in lines) or rng.random() < 0.2:
            lines.append(b"content-length: %d" % len(body))
        with socket.create_connection((where.hostname, where.port), 10) as client:
            client.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
            client.shutdown(socket.SHUT_WR)
            said = b""
            try:
                while chunk := client.recv(65536):
                    said += chunk
            except ConnectionResetError:
                pass
        if said:
            status = int(said.split(b" ", 2)[1])
            assert status < 500, (lines, body, said)
            assert b"Traceback" not in said
    assert httpx.get(f"{router.url}/healthz", timeout=10).status_code == 200
    assert "Traceback" not in router.log.read_text()


def test_requests_that_are_none(router: Router) -> None:
    malformed(router, 200, seed=5)


@pytest.mark.soak
def test_many_requests_that_are_none(router: Router) -> None:
    malformed(router, 10_000, seed=6)


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/route", {"query": "x", "queries": ["y"]}, "either query or queries"),
        ("/route", {}, "either query or queries"),
        ("/route", {"queries": []}, "queries: "),
        ("/route", {"queries": ["x"] * 1025}, "allowed are 1024"),
        ("/route", {"query": 7}, "query: "),
        ("/route", {"query": "x", "thershold": 1}, "thershold: unknown field"),
        ("/explain", {"query": "x", "k": 0}, "k: "),
        ("/explain", {"query": "x", "k": "5"}, "k: "),
        ("/answer", {"query": ""}, "query: "),
        ("/route", "text", "the body: "),
    ],
)
def test_native_endpoints_tell_what_is_wrong(router: Router, path, body, told) -> None:
    answer = httpx.post(router.url + path, json=body, headers=router.headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and told in error["message"]


def test_a_form_is_told_to_be_json(router: Router) -> None:
    answer = httpx.post(f"{router.url}/route", data={"query": "x"}, headers=router.headers)
    assert answer.status_code == 400 and "application/json" in answer.json()["error"]["message"]
