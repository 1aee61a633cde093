"""MQuAKE (Zhong et al. 2023): multi-hop cases, each resting on one or more edits.

A case: `requested_rewrite` (a list of CounterFact rewrites, each with its `question`),
`questions` (three phrasings of one multi-hop question) and `new_answer` with
`new_answer_alias`. The same edit serves many cases: it is imported once, with the questions
of all of them as portability probes. A question of a case with several edits hangs on the
last of them and lists all their ids as `needs`: it can be answered only when all are live.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serac_core.edits.importers.counterfact import rewrite_fields
from serac_core.edits.importers.source_file import flat_answers, make_edit, wrong_format
from serac_core.edits.record import Edit, content_id


def _append_new(into: list[Any], values: list[Any]) -> None:
    into.extend(value for value in values if value not in into)


def mquake_edits(records: list[dict[str, Any]], path: Path) -> list[Edit]:
    """Edits of an MQuAKE file (CF, CF-3k or T), each once, in the order they first appear."""
    by_id: dict[str, dict[str, Any]] = {}
    first_seen: dict[str, int] = {}
    for number, record in enumerate(records, start=1):
        rewrites = record.get("requested_rewrite")
        if not isinstance(rewrites, list) or not rewrites:
            raise wrong_format(path, number, "requested_rewrite", "must be a list of edits")
        needs: list[str] = []
        for rewrite in rewrites:
            fields = rewrite_fields(rewrite, path, number)
            name = content_id(fields["prompt"], fields["target_new"], fields["subject"])
            known = by_id.setdefault(
                name, {**fields, "id": name, "rephrase_prompts": [], "portability": []}
            )
            first_seen.setdefault(name, number)
            _append_new(known["rephrase_prompts"], flat_answers(rewrite.get("question")))
            needs.append(name)
        answers = flat_answers(record.get("new_answer"))
        if not answers:
            continue
        implied: dict[str, Any] = {"ground_truth": answers[0]}
        if aliases := flat_answers(record.get("new_answer_alias")):
            implied["aliases"] = aliases
        if len(needs) > 1:
            implied["needs"] = needs
        questions = flat_answers(record.get("questions"))
        _append_new(by_id[needs[-1]]["portability"], [{"prompt": q, **implied} for q in questions])
    return [make_edit(fields, path, first_seen[name]) for name, fields in by_id.items()]
