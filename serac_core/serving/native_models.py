"""What the native endpoints take and give; an unknown field of a request is an error."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from serac_core.edits.record import Edit

_QUERY = "What is the capital of France?"
_DECISION: JsonDict = {
    "query": _QUERY,
    "in_scope": True,
    "edit_id": "e-3f1c9a0b5d7e2468",
    "score": 0.9987,
    "threshold": 0.61,
    "nearest_edit_id": "e-3f1c9a0b5d7e2468",
    "borderline": False,
}


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RouteRequest(_Request):
    """One query or many."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": _QUERY}, {"queries": [_QUERY, "Tell me a joke."]}],
        }
    )

    query: str | None = Field(None, description="One query.")
    queries: list[str] | None = Field(None, min_length=1, description="Instead: several.")

    @model_validator(mode="after")
    def _has_one(self) -> RouteRequest:
        if (self.query is None) == (self.queries is None):
            raise ValueError("give either query or queries")
        return self


class ExplainRequest(_Request):
    """A query whose decision is to be explained."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": _QUERY, "k": 5}]})

    query: str = Field(description="The query.")
    k: int = Field(5, ge=1, le=100, description="How many edits to show.")


class AnswerRequest(_Request):
    """A question for the base and for the edited model."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": _QUERY}]})

    query: str = Field(min_length=1, description="The question.")
    model: str | None = Field(None, min_length=1, description="Of the upstream; any without.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer.")


class EditsQuery(_Request):
    """Which live edits to show."""

    model_config = ConfigDict(strict=False)

    search: str = Field("", max_length=1000, description="In id, prompt, subject or target.")
    offset: int = Field(0, ge=0, description="How many to leave out.")
    limit: int = Field(50, ge=1, le=1000, description="How many to show.")


class QueueRequest(_Request):
    """An edit, or a retraction by name, for the next update of the served edits."""

    model_config = ConfigDict(
        strict=False,
        json_schema_extra={
            "examples": [
                {
                    "edit": {
                        "prompt": "The capital of France is",
                        "target_new": "Lyon",
                        "subject": "France",
                    }
                },
                {"edit": {"id": "e-3f1c9a0b5d7e2468", "status": "retracted"}},
            ]
        },
    )

    edit: dict[str, Any] = Field(
        description="An edit record (docs/serving.md); its unknown fields are kept."
    )


class DecisionOut(BaseModel):
    """Where a query goes."""

    model_config = ConfigDict(json_schema_extra={"examples": [_DECISION]})

    query: str
    in_scope: bool
    edit_id: str | None = Field(description="The edit whose scope it falls under.")
    score: float = Field(description="-1 where no edit came into question.")
    threshold: float = Field(description="Least score in scope.")
    nearest_edit_id: str | None
    borderline: bool


class RouteAnswer(BaseModel):
    """Decisions in the order of the queries, all by one release."""

    release: str
    decisions: list[DecisionOut]


class CandidateOut(BaseModel):
    """An edit that came into question, and what its score is made of."""

    model_config = ConfigDict(extra="allow")

    edit_id: str
    prompt: str
    score: float


class ExplainAnswer(DecisionOut):
    """A decision and what it rests on."""

    release: str
    margin: float = Field(description="Score less threshold.")
    reason: str
    candidates: list[CandidateOut] = Field(description="Best first.")


class AnswerAnswer(DecisionOut):
    """Base answer beside edited answer; out of scope they are one."""

    release: str
    base_answer: str
    edited_answer: str


class EditsAnswer(BaseModel):
    """A page of the live edits, newest first."""

    release: str
    total: int = Field(description="Edits that the search finds.")
    offset: int
    edits: list[Edit]


class ReleaseAnswer(BaseModel):
    """The release that answers."""

    release: str
    edits: int
    variant: str
    provider: str
    base_model: str = Field(description="That it was trained for.")
    manifest_sha256: str = Field(description="Says which release it is, whatever it is called.")
    metrics: dict[str, Any] = Field(description="Of its report, on edits never trained on.")
    live_metrics: dict[str, Any] = Field(description="The same on the edits that it serves.")
    following: dict[str, Any] | None = Field(
        description="What is followed, which release should answer, and why it does not."
    )


class QueueAnswer(BaseModel):
    """An edit on its way."""

    id: str = Field(description="For GET /edits/queue/{id}.")
    edit_id: str
    status: Literal["queued", "taken", "live", "rejected"] = Field(
        description="queued: lies in the inbox; taken: an update works on it, or has merged it "
        "into a release that isn't served here yet; live: served now; rejected: see reasons."
    )
    follow: str = Field(description="Where to ask again.")
    reasons: list[str] = Field(description="Warnings, or why it was rejected.")


class ReloadAnswer(BaseModel):
    """What came of looking for another release."""

    outcome: Literal["swapped", "unchanged", "refused", "unavailable", "unreachable"]
    changed: bool
    release: str | None = Field(description="The one that answers.")
    wanted: str | None = Field(description="The one that should.")
    problem: str | None = Field(description="Why it isn't so.")


class Health(BaseModel):
    """Whether the server lives, or is ready."""

    status: Literal["ok", "ready", "draining", "no release"]
    release: str | None = None


class ErrorDetail(BaseModel):
    """What is wrong and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """OpenAI's error format."""

    error: ErrorDetail
