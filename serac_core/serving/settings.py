"""The settings of the router server: a YAML file (`--config`), options of `serac serve` over it.

Secrets are no settings: keys come from files named here, or from the environment
(:mod:`serac_core.serving.keys`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from serac_core.config import checked_settings, read_settings


class ServingSettings(BaseModel):
    """Every key of the file; an unknown one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8100, ge=0, le=65535, description="Port to listen on; 0: any free one.")

    base: str = Field(
        "",
        description="What answers out of scope: the URL of an OpenAI-compatible API, `/v1` "
        "included, or a Hugging Face id or path; empty: the model that the release names.",
    )
    edited_answers: Literal["release", "upstream"] = Field(
        "release",
        description="What answers in scope: the release's counterfactual model, or the upstream "
        "with the edit in its context. A release of kind `in-context` has no model of its own and "
        "is always answered for by the base.",
    )
    max_new_tokens: int = Field(
        24, ge=1, le=4096, description="Longest answer of a local model, in tokens."
    )

    release: str = Field("", description="A release directory to serve.")
    stage: Literal["", "prod"] = Field(
        "", description="Instead: the stage of the registry to follow."
    )
    repository: str = Field(
        "",
        description="Git URL or path with the registry; empty: where `checkout` publishes its "
        "releases.",
    )
    store: str = Field(
        ".serac/serving", description="Folder for releases that were fetched, in `checkout`."
    )
    checkout: str = Field(".", description="Folder of the project that `store` and `inbox` lie in.")
    poll_seconds: float = Field(5.0, gt=0, description="How often the registry is looked at.")
    variant: Literal["fp32", "fp16", "int8"] = Field("fp32", description="Encoder graph.")
    provider: Literal["cpu", "cuda"] = Field("cpu", description="ONNX Runtime provider.")
    threads: int | None = Field(
        1,
        ge=1,
        description="Of an encoder pass; null: ONNX Runtime's choice, one a core, which spin while "
        "they wait and so slow the rest of the server down.",
    )
    device: str = Field("auto", description="Of local models: auto, cpu, cuda, cuda:1.")
    model_threads: int = Field(
        1,
        ge=1,
        description="Of local models on a CPU; more pays for large ones only: threads that wait "
        "for each other keep the cores from everything else.",
    )

    routing: Literal["on", "off"] = Field(
        "on", description="off: every request goes to the base as if there were no edits."
    )
    on_router_failure: Literal["open", "closed"] = Field(
        "open",
        description="Where the scope can't be decided: open answers by the base, closed by 503.",
    )
    routing_timeout: float = Field(2.0, gt=0, description="Seconds for a decision.")
    answer_timeout: float = Field(60.0, gt=0, description="Seconds for a local model's answer.")
    batch_queries: int = Field(64, ge=1, description="Queries decided together, at most.")
    waiting_queries: int = Field(2048, ge=1, description="Queries that may wait; more get 429.")
    batch_answers: int = Field(32, ge=1, description="Answers generated together, at most.")
    waiting_answers: int = Field(256, ge=1, description="Answers that may wait; more get 429.")

    upstream_connect_timeout: float = Field(5.0, gt=0, description="Seconds to connect.")
    upstream_timeout: float = Field(
        300.0, gt=0, description="Seconds without a byte from the upstream."
    )
    upstream_retries: int = Field(
        2, ge=0, le=10, description="Further attempts to connect; nothing has been sent then."
    )
    upstream_connections: int = Field(1024, ge=1, description="Connections at once.")
    upstream_keepalive: float = Field(
        3.0,
        ge=0,
        description="Seconds that an idle connection is kept; less than the upstream keeps it.",
    )
    forward_authorization: bool = Field(
        False,
        description="Send the client's Authorization on; the router's own key then comes in "
        "`x-serac-key`.",
    )
    forward_paths: tuple[str, ...] = Field(
        ("embeddings",), description="Further paths below /v1 that go to the upstream unrouted."
    )

    max_body_bytes: int = Field(32 << 20, ge=1024, description="Longest request; more get 413.")
    max_requests: int = Field(1024, ge=1, description="Requests at once; more get 429.")
    body_timeout: float = Field(30.0, gt=0, description="Seconds to receive a request.")
    max_queries: int = Field(1024, ge=1, description="Queries in one POST /route.")

    query_keys_file: str = Field("", description="Keys of clients, one a line.")
    admin_keys_file: str = Field("", description="Keys of administrators, one a line.")
    upstream_key_file: str = Field("", description="The key sent to the upstream.")
    allow_without_keys: bool = Field(
        False, description="Listen beyond this machine although there is no key of clients."
    )
    open_metrics: bool = Field(True, description="/metrics needs no key.")

    decision_log: str = Field("", description="Folder for the log of decisions; empty: none.")
    decision_log_megabytes: int = Field(64, ge=1, description="Size at which a file is full.")
    decision_log_files: int = Field(16, ge=2, description="Files kept; the oldest go.")
    log_prompts: bool = Field(False, description="Write what was asked into the decision log.")
    access_log: bool = Field(False, description="One line a request on stderr; never its text.")

    inbox: str = Field("data/inbox", description="Where POST /edits leaves files, in `checkout`.")

    drain_delay: float = Field(
        0.0,
        ge=0,
        description="Seconds after SIGTERM in which requests are still taken while /readyz says "
        "no: as long as a load balancer needs to notice.",
    )
    drain_timeout: float = Field(
        60.0, gt=0, description="Seconds that requests under way have after that."
    )

    @field_validator("base")
    @classmethod
    def _is_usable(cls, base: str) -> str:
        if "://" not in base:
            return base
        from urllib.parse import urlsplit

        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an upstream is http://HOST[:PORT]/v1 or https://...")
        if parts.username or parts.password:
            raise ValueError("a key doesn't belong in the URL; use upstream_key_file")
        if parts.query or parts.fragment:
            raise ValueError("an upstream's URL has neither ? nor #")
        return base.rstrip("/")

    @model_validator(mode="after")
    def _is_consistent(self) -> ServingSettings:
        if bool(self.release) == bool(self.stage):
            raise ValueError("give either release (--release DIR) or stage (--stage prod)")
        if self.edited_answers == "upstream" and not self.upstream:
            raise ValueError("edited_answers: upstream needs base to be a URL")
        return self

    @property
    def upstream(self) -> str:
        """The URL of the upstream; empty where a local model is the base."""
        return self.base if "://" in self.base else ""


def load_settings(
    path: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> ServingSettings:
    """The settings of a file, with what was named on the command line over them.

    Raises
    ------
    ConfigError
        The file is missing or unreadable, a key is unknown or a value breaks its rule.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    if path is None:
        return checked_settings(given, ServingSettings, "serac serve")
    held = read_settings(path, _AnyKeys, remedy="name a YAML file with --config")
    return checked_settings({**(held.model_extra or {}), **given}, ServingSettings, str(path))


class _AnyKeys(BaseModel):
    """A file before it is known what the command line adds."""

    model_config = ConfigDict(extra="allow")
