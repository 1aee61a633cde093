"""The edit record: one correction of what a language model says."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

ProbeKind = Literal["same_subject", "same_relation", "unrelated", "distracting"]
PROBE_KINDS: tuple[ProbeKind, ...] = ("same_subject", "same_relation", "unrelated", "distracting")

_SPACE = re.compile(r"\s+")
_CLOSING = re.compile(r"[\s?.!:,;]+$")


def normalize_text(text: str) -> str:
    """The form in which two texts count as the same: NFKC, case folded, white space
    collapsed, closing punctuation dropped."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _CLOSING.sub("", _SPACE.sub(" ", folded).strip())


def content_id(prompt: str, target_new: str, subject: str | None = None) -> str:
    """A stable id made from what the edit says (SHA-256 of its normalised fields, shortened)."""
    content = "\x1f".join(normalize_text(part) for part in (prompt, target_new, subject or ""))
    return "e-" + hashlib.sha256(content.encode()).hexdigest()[:16]


class LocalityProbe(BaseModel):
    """A query out of the edit's scope: the edited model must answer it as the base does."""

    model_config = ConfigDict(frozen=True, extra="allow")

    prompt: str
    ground_truth: str | None = None
    kind: ProbeKind = "unrelated"


class PortabilityProbe(BaseModel):
    """A query whose answer follows from the edit without being the edit."""

    model_config = ConfigDict(frozen=True, extra="allow")

    prompt: str
    ground_truth: str


class Edit(BaseModel):
    """One edit, as stored: one JSON object a line. Unknown fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str = ""
    prompt: str
    target_new: str
    subject: str | None = None
    ground_truth: str | None = None
    rephrase_prompts: tuple[str, ...] = ()
    locality: tuple[LocalityProbe, ...] = ()
    portability: tuple[PortabilityProbe, ...] = ()
    supersedes: str | None = None
    status: Literal["active", "retracted"] = "active"
    source: str | None = None
    created_at: datetime | None = None

    @model_validator(mode="before")
    @classmethod
    def _id_from_content(cls, data: object) -> object:
        if isinstance(data, dict) and not data.get("id"):
            prompt, target = data.get("prompt"), data.get("target_new")
            if isinstance(prompt, str) and isinstance(target, str):
                subject = data.get("subject")
                made = content_id(prompt, target, subject if isinstance(subject, str) else None)
                return {**data, "id": made}
        return data
