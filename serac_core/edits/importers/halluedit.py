"""HalluEditBench (Huang et al. 2024): facts that models get wrong, with near misses of each.

`subject`, `relation`, `object` (the true answer, which becomes the target), `question`,
`paraphrased_question`, `yes_question` and `no_question` (the object, or another answer, stands in
them), `locality_question` (same subject, other relation; no answer given) and `question_2hop` to
`question_6hop` with `answer_*`, which become portability probes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serac_core.edits.importers.source_file import make_edit, text_field
from serac_core.edits.record import Edit

_HOPS = range(2, 7)


def _edit(record: dict[str, Any], path: Path, number: int) -> Edit:
    hops = [
        {"prompt": record[f"question_{hop}hop"], "ground_truth": record[f"answer_{hop}hop"]}
        for hop in _HOPS
        if record.get(f"question_{hop}hop") and record.get(f"answer_{hop}hop")
    ]
    used = {"question", "object", "paraphrased_question", "locality_question"}
    used |= {f"{part}_{hop}hop" for part in ("question", "answer") for hop in _HOPS}
    fields = {k: v for k, v in record.items() if k not in used}
    fields["prompt"] = text_field(record, "question", path, number)
    fields["target_new"] = text_field(record, "object", path, number)
    fields["portability"] = hops
    if record.get("paraphrased_question") is not None:
        rephrasing = text_field(record, "paraphrased_question", path, number)
        fields["rephrase_prompts"] = [rephrasing]
    if record.get("locality_question") is not None:
        probe = {
            "prompt": text_field(record, "locality_question", path, number),
            "kind": "same_subject",
        }
        fields["locality"] = [probe]
    return make_edit(fields, path, number)


def halluedit_edits(records: list[dict[str, Any]], path: Path) -> list[Edit]:
    """Edits of a HalluEditBench file."""
    return [_edit(record, path, n) for n, record in enumerate(records, start=1)]
