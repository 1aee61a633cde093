"""CounterFact (Meng et al. 2022): the original file, and the flat one that editors train on.

Original: `requested_rewrite` {`prompt` with `{}` for the subject, `subject`, `target_new` and
`target_true` as {`str`}}, `paraphrase_prompts`, `neighborhood_prompts` (same relation, other
subject), `attribute_prompts` (the target is already true of them; kept, not probed), and
`generation_prompts` (kept); `portability` as EasyEdit adds it. Flat: `prompt`, `target_new`,
`subject`, `ground_truth`, `rephrase_prompt`, `locality_prompt`, `locality_ground_truth`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serac_core.edits.importers.easyedit import portability_probes
from serac_core.edits.importers.source_file import (
    make_edit,
    text_field,
    texts_field,
    wrong_format,
)
from serac_core.edits.record import Edit


def rewrite_fields(rewrite: Any, path: Path, number: int) -> dict[str, Any]:
    """Prompt, target, truth and subject of a `requested_rewrite` of CounterFact or MQuAKE."""
    if not isinstance(rewrite, dict):
        raise wrong_format(path, number, "requested_rewrite", f"must be an object, got {rewrite!r}")
    subject = text_field(rewrite, "subject", path, number)
    fields = {
        "prompt": text_field(rewrite, "prompt", path, number).replace("{}", subject),
        "subject": subject,
    }
    for name, theirs in (("target_new", "target_new"), ("ground_truth", "target_true")):
        target = rewrite.get(theirs)
        if not isinstance(target, dict):
            raise wrong_format(path, number, theirs, 'must be an object {"str": ...}')
        fields[name] = text_field(target, "str", path, number)
    if "relation_id" in rewrite:
        fields["relation"] = rewrite["relation_id"]
    return fields


def _original(record: dict[str, Any], path: Path, number: int) -> Edit:
    fields = rewrite_fields(record["requested_rewrite"], path, number)
    used = {"requested_rewrite", "paraphrase_prompts", "neighborhood_prompts"}
    locality = [
        {"prompt": prompt, "kind": "same_relation", "ground_truth": fields["ground_truth"]}
        for prompt in texts_field(record, "neighborhood_prompts", path, number)
    ]
    return make_edit(
        {
            **{k: v for k, v in record.items() if k not in used},
            **fields,
            "rephrase_prompts": texts_field(record, "paraphrase_prompts", path, number),
            "locality": locality,
            "portability": portability_probes(record, path, number),
        },
        path,
        number,
    )


def _flat(record: dict[str, Any], path: Path, number: int) -> Edit:
    used = {"rephrase_prompt", "locality_prompt", "locality_ground_truth"}
    fields = {k: v for k, v in record.items() if k not in used}
    for name in ("prompt", "target_new"):
        text_field(record, name, path, number)
    if record.get("rephrase_prompt") is not None:
        fields["rephrase_prompts"] = [text_field(record, "rephrase_prompt", path, number)]
    if record.get("locality_prompt") is not None:
        probe = {
            "prompt": text_field(record, "locality_prompt", path, number),
            "ground_truth": record.get("locality_ground_truth"),
            "kind": "same_relation",
        }
        fields["locality"] = [probe]
    return make_edit(fields, path, number)


def counterfact_edits(records: list[dict[str, Any]], path: Path) -> list[Edit]:
    """Edits of a CounterFact file, original or flat."""
    return [
        _original(record, path, n) if "requested_rewrite" in record else _flat(record, path, n)
        for n, record in enumerate(records, start=1)
    ]
