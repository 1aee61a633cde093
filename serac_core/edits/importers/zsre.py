"""zsRE as MEND (Mitchell et al. 2021) and EasyEdit lay it out.

`src` prompt, `alt` target, `answers` true answers, `subject`, `rephrase`, `loc` with
`loc_ans`: an unrelated Natural Questions question, whose "nq question: " mark a classifier
would learn instead of the question; it is taken off and kept as the probe's `prefix`.
`portability` is EasyEdit's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serac_core.edits.importers.easyedit import portability_probes
from serac_core.edits.importers.source_file import flat_answers, make_edit, text_field
from serac_core.edits.record import Edit

LOCALITY_PREFIX = "nq question: "
_CONSUMED = {"src", "alt", "answers", "rephrase", "loc", "loc_ans", "portability"}


def _edit(record: dict[str, Any], path: Path, number: int) -> Edit:
    fields = {k: v for k, v in record.items() if k not in _CONSUMED}
    fields["prompt"] = text_field(record, "src", path, number)
    fields["target_new"] = text_field(record, "alt", path, number)
    answers = flat_answers(record.get("answers"))
    fields["ground_truth"] = answers[0] if answers else None
    fields["ground_truth_aliases"] = answers[1:] or None
    fields["rephrase_prompts"] = flat_answers(record.get("rephrase"))
    if record.get("loc") is not None:
        locality = text_field(record, "loc", path, number)
        probe: dict[str, Any] = {
            "prompt": locality.removeprefix(LOCALITY_PREFIX),
            "ground_truth": record.get("loc_ans"),
            "kind": "unrelated",
        }
        if locality.startswith(LOCALITY_PREFIX):
            probe["prefix"] = LOCALITY_PREFIX
        fields["locality"] = [probe]
    fields["portability"] = portability_probes(record, path, number)
    return make_edit(fields, path, number)


def zsre_edits(records: list[dict[str, Any]], path: Path) -> list[Edit]:
    """Edits of a zsRE file in MEND's layout."""
    return [_edit(record, path, n) for n, record in enumerate(records, start=1)]
