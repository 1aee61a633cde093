"""Rules that one record breaks by itself, and the well-typed view the other rules work on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from serac_core.edits.jsonl import RawRecord
from serac_core.edits.merge import is_retraction
from serac_core.edits.record import PROBE_KINDS, content_id, normalize_text
from serac_core.edits.rules import Violation

# C0, C1, line and paragraph separators, overriding direction marks, BOM, halves of pairs.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_INSTANT = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.]\d{1,6})?)?(Z|[+-]\d{2}:?\d{2})?)?"
)
_DAY = re.compile(r"(\d{4})(-\d{2})?(-\d{2})?")
_CLOCK_SKEW = timedelta(days=1)
_LONGEST_VALUE = 200

# Answers that a yes/no question may well name.
_POLAR = frozenset({"yes", "no", "true", "false"})
# Words of somebody who talks before asking: such a lead-in belongs to the question.
_TALK = re.compile(
    r"\b(i|i'm|i've|i'd|my|me|we|our|us|you|your|please|question|quiz|hi|hello|hey|thanks|"
    r"let's|so|ok|okay|well|remind|tell|wondering)\b"
)
_LEAD_END = re.compile(r"[.!]\s")
_LEAST_LEAD_WORDS = 4


@dataclass(slots=True)
class Probe:
    """A well-typed probe: where it stands, its prompt and answer, plain and normalised."""

    field: str
    prompt: str
    normal: str
    answer: str | None


@dataclass(slots=True)
class CheckedRecord:
    """What is well typed of one record; what isn't has been reported and is absent here."""

    line: int
    id: str
    retraction: bool = False
    retracted: bool = False
    prompt: str | None = None
    target: str | None = None
    subject: str | None = None
    ground_truth: str | None = None
    supersedes: str | None = None
    normal_prompt: str = ""
    normal_target: str = ""
    normal_aliases: frozenset[str] = frozenset()  # other names of the old answer, from importers
    rephrasings: list[tuple[str, str, str]] = field(default_factory=list)  # field, text, normal
    locality: list[Probe] = field(default_factory=list)
    portability: list[Probe] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    def report(self, rule: str, where: str, value: object, detail: str) -> None:
        """Note a broken rule."""
        shown = value if isinstance(value, str) else json.dumps(value, default=str)
        shown = shown.encode("utf-8", "backslashreplace").decode()
        if len(shown) > _LONGEST_VALUE:
            shown = shown[: _LONGEST_VALUE - 3] + "..."
        self.violations.append(Violation(self.line, self.id, rule, where, shown, detail))


def _blank(text: str) -> bool:
    return not any(c.isprintable() and not c.isspace() for c in text)


def _text(record: CheckedRecord, where: str, value: object) -> str | None:
    """The value when it is text that shows, its defects reported."""
    if not isinstance(value, str):
        record.report("wrong_type", where, value, f"must be text, is {_type_name(value)}")
        return None
    if control := _CONTROL.search(value):
        detail = f"U+{ord(control.group()):04X} at character {control.start() + 1}"
        record.report("control_character", where, value, detail)
    suspect = not value.isprintable() or value.isspace() or not value
    if suspect and _blank(value):
        record.report("empty_field", where, value, "holds nothing that shows")
        return None
    return value


def _type_name(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "a number")


def _list(record: CheckedRecord, where: str, value: object) -> Sequence[object]:
    if value is None:
        return ()
    if not isinstance(value, list):
        record.report("wrong_type", where, value, f"must be a list, is {_type_name(value)}")
        return ()
    return value


def _probes(record: CheckedRecord, name: str, value: object) -> Iterator[Probe]:
    for index, probe in enumerate(_list(record, name, value)):
        where = f"{name}[{index}]"
        if not isinstance(probe, dict):
            detail = f"must be an object with a prompt, is {_type_name(probe)}"
            record.report("wrong_type", where, probe, detail)
            continue
        answer = probe.get("ground_truth")
        if answer is not None:
            answer = _text(record, f"{where}.ground_truth", answer)
        elif name == "portability":
            record.report(
                "missing_field", f"{where}.ground_truth", None, "a probe needs its answer"
            )
        kind = probe.get("kind", PROBE_KINDS[0])
        if name == "locality" and kind not in PROBE_KINDS:
            record.report(
                "wrong_type", f"{where}.kind", kind, f"must be one of {', '.join(PROBE_KINDS)}"
            )
        if "prompt" not in probe:
            record.report("missing_field", f"{where}.prompt", None, "a probe needs its prompt")
            continue
        prompt = _text(record, f"{where}.prompt", probe["prompt"])
        if prompt is not None:
            yield Probe(f"{where}.prompt", prompt, normalize_text(prompt), answer)


def _instant(text: str) -> datetime | None:
    if not _INSTANT.fullmatch(text):
        return None
    try:
        made = datetime.fromisoformat(text)
    except ValueError:
        return None
    return made if made.tzinfo else made.replace(tzinfo=UTC)


def _real_day(text: str) -> bool:
    """Whether a text is a year, a month or a day of the calendar."""
    match = _DAY.fullmatch(text)
    if match is None:
        return _instant(text) is not None
    year, month, day = (int(part.strip("-")) if part else 1 for part in match.groups())
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _check_dates(record: CheckedRecord, value: dict[str, Any], now: datetime) -> None:
    if value.get("created_at") is not None:
        text = _text(record, "created_at", value["created_at"])
        made = _instant(text) if text is not None else None
        if text is not None and made is None:
            record.report("bad_date", "created_at", text, "not a date of ISO 8601")
        elif made is not None and made > now + _CLOCK_SKEW:
            record.report("bad_date", "created_at", text, "lies in the future")
    changed = value.get("changed_on")
    if isinstance(changed, str) and not _real_day(changed):
        record.report("bad_date", "changed_on", changed, "not a year, month or day of ISO 8601")


def _name(value: dict[str, Any], line: int) -> str:
    given = value.get("id")
    if isinstance(given, str) and not _blank(given):
        return given
    prompt, target, subject = value.get("prompt"), value.get("target_new"), value.get("subject")
    if isinstance(prompt, str) and isinstance(target, str):
        try:
            return content_id(prompt, target, subject if isinstance(subject, str) else None)
        except UnicodeEncodeError:  # half a character; reported where it stands
            pass
    return f"line {line}"


def stands_in(answer: str, text: str) -> bool:
    """Whether a normalised answer stands in a normalised text as words of its own.

    Scripts that don't part words (Chinese, Japanese, Thai, ...) match anywhere.
    """
    at = text.find(answer) if answer else -1
    while at >= 0:
        end = at + len(answer)
        before = text[at - 1] if at else " "
        after = text[end] if end < len(text) else " "
        if not (_joined(before, answer[0]) or _joined(answer[-1], after)):
            return True
        at = text.find(answer, at + 1)
    return False


def _joined(left: str, right: str) -> bool:
    return all(c.isalnum() and not "\u0e00" <= c <= "\u0eff" and c < "\u2e80" for c in left + right)


def _unrelated_lead(text: str, subject: str, prompt: str) -> str | None:
    """A statement before the subject that isn't the asker's own talk, or None."""
    at = text.casefold().find(subject.casefold()) if "." in text or "!" in text else -1
    ends = list(_LEAD_END.finditer(text, 0, at)) if at > 0 else []
    if not ends:
        return None
    lead = text[: ends[-1].end()].strip()
    if len(lead.split()) < _LEAST_LEAD_WORDS or _TALK.search(lead.casefold()):
        return None
    return None if normalize_text(lead) in normalize_text(prompt) else lead


def _check_meaning(record: CheckedRecord) -> None:
    """Rules between the fields of one record."""
    prompt, target = record.normal_prompt, record.normal_target
    truth = normalize_text(record.ground_truth) if record.ground_truth is not None else ""
    if target and target in {truth, *record.normal_aliases}:
        detail = f"ground_truth is {record.ground_truth!r}"
        record.report("target_is_ground_truth", "target_new", record.target, detail)
    if target not in _POLAR and stands_in(target, prompt):
        offered = truth != target and stands_in(truth, prompt) and " or " in prompt
        rule = "target_offered_in_prompt" if offered else "target_in_prompt"
        record.report(rule, "prompt", record.prompt, f"holds {record.target!r}")
    if truth != target and truth not in _POLAR and stands_in(truth, prompt):
        detail = f"holds {record.ground_truth!r}"
        record.report("ground_truth_in_prompt", "prompt", record.prompt, detail)
    subject = normalize_text(record.subject) if record.subject is not None else ""
    seen: set[str] = set()
    for where, text, normal in record.rephrasings:
        if prompt and normal == prompt:
            record.report("rephrasing_is_prompt", where, text, "equals the prompt")
        elif normal in seen:
            record.report("repeated_rephrasing", where, text, "stands twice")
        seen.add(normal)
        if subject and subject not in normal:
            detail = f"doesn't name {record.subject!r}"
            record.report("rephrasing_without_subject", where, text, detail)
        elif lead := _unrelated_lead(text, record.subject or "", record.prompt or ""):
            record.report("rephrasing_with_unrelated_lead", where, text, f"begins {lead!r}")
    own = seen | {prompt}
    for probe in record.locality:
        if probe.normal in own:
            detail = "equals the edit's own prompt or a rephrasing of it"
            record.report("probe_in_own_scope", probe.field, probe.prompt, detail)


def check_record(raw: RawRecord, now: datetime) -> CheckedRecord:
    """Check one raw record by itself; `now` bounds `created_at`."""
    value = raw.value
    if not isinstance(value, dict):
        record = CheckedRecord(raw.line, f"line {raw.line}")
        detail = f"a line is one JSON object, this is {_type_name(value)}"
        record.report("wrong_type", "the whole line", value, detail)
        return record
    record = CheckedRecord(raw.line, _name(value, raw.line))
    if value.get("id") is not None:
        _text(record, "id", value["id"])
    status = value.get("status", "active")
    record.retracted = status == "retracted"
    if status not in ("active", "retracted"):
        record.report("wrong_type", "status", status, "must be active or retracted")
    if is_retraction(value):
        record.retraction = True
        if value.get("id") is None:
            record.report("missing_field", "id", None, "a retraction names the id it retracts")
        return record
    texts: dict[str, str | None] = {}
    for name in ("prompt", "target_new", "subject", "ground_truth", "supersedes", "source"):
        if value.get(name) is not None:
            texts[name] = _text(record, name, value[name])
        elif name in ("prompt", "target_new"):
            record.report("missing_field", name, None, "every edit has one")
    record.prompt, record.target = texts.get("prompt"), texts.get("target_new")
    record.subject, record.ground_truth = texts.get("subject"), texts.get("ground_truth")
    record.supersedes = texts.get("supersedes")
    record.normal_prompt = normalize_text(record.prompt or "")
    record.normal_target = normalize_text(record.target or "")
    if record.prompt is not None and not record.normal_prompt:
        record.report("empty_field", "prompt", record.prompt, "holds no word")
    aliases = value.get("ground_truth_aliases")
    if isinstance(aliases, list):
        texts_only = (alias for alias in aliases if isinstance(alias, str))
        record.normal_aliases = frozenset(normalize_text(alias) for alias in texts_only)
    for index, item in enumerate(_list(record, "rephrase_prompts", value.get("rephrase_prompts"))):
        where = f"rephrase_prompts[{index}]"
        text = _text(record, where, item)
        if text is not None:
            record.rephrasings.append((where, text, normalize_text(text)))
    record.locality = list(_probes(record, "locality", value.get("locality")))
    record.portability = list(_probes(record, "portability", value.get("portability")))
    _check_dates(record, value, now)
    _check_meaning(record)
    return record
