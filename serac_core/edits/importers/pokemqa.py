"""PokeMQA's scope data (Gu et al. 2024): edits as statements, each with questions in its scope.

`edit` is a statement by one of MQuAKE's templates ("The author of X is Y"), `questions` ask for
what it says, some of them twice. The template tells subject and target apart; a statement by no
template becomes an edit without subject whose target is its last word.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from serac_core.edits.importers.source_file import make_edit, text_field, wrong_format
from serac_core.edits.record import Edit

# `origianl` and `univeristy` are the data's own spelling.
_STATEMENTS = {
    "author": r"(The author of (?P<s>.+) is) (?P<o>.+)",
    "capital": r"(The capital of (?P<s>.+) is) (?P<o>.+)",
    "chairperson": r"(The chairperson of (?P<s>.+) is) (?P<o>.+)",
    "chief executive officer": r"(The chief executive officer of (?P<s>.+) is) (?P<o>.+)",
    "child": r"((?P<s>.+)'s child is) (?P<o>.+)",
    "continent": r"((?P<s>.+) is located in the continent of) (?P<o>.+)",
    "country of citizenship": r"((?P<s>.+) is a citizen of) (?P<o>.+)",
    "country of origin": r"((?P<s>.+) was created in the country of) (?P<o>.+)",
    "creator": r"((?P<s>.+) was created by) (?P<o>.+)",
    "developer": r"((?P<s>.+) was developed by) (?P<o>.+)",
    "director": r"(The director of (?P<s>.+) is) (?P<o>.+)",
    "educated at": r"(The univeristy where (?P<s>.+) was educated is) (?P<o>.+)",
    "employer": r"((?P<s>.+) is employed by) (?P<o>.+)",
    "field of work": r"((?P<s>.+) works in the field of) (?P<o>.+)",
    "founder": r"((?P<s>.+) was founded by) (?P<o>.+)",
    "genre": r"(The type of music that (?P<s>.+) plays is) (?P<o>.+)",
    "head coach": r"(The head coach of (?P<s>.+) is) (?P<o>.+)",
    "head of government": (
        r"(The name of the current head of the (?P<s>.+) government is) (?P<o>.+)"
    ),
    "head of state": r"(The name of the current head of state in (?P<s>.+) is) (?P<o>.+)",
    "headquarters location": r"(The headquarters of (?P<s>.+) is located in the city of) (?P<o>.+)",
    "language": r"((?P<s>.+) was written in the language of) (?P<o>.+)",
    "languages spoken": r"((?P<s>.+) speaks the language of) (?P<o>.+)",
    "location of formation": r"((?P<s>.+) was founded in the city of) (?P<o>.+)",
    "manufacturer": r"(The company that produced (?P<s>.+) is) (?P<o>.+)",
    "notable work": r"((?P<s>.+) is famous for) (?P<o>.+)",
    "official language": r"(The official language of (?P<s>.+) is) (?P<o>.+)",
    "original broadcaster": r"(The origianl broadcaster of (?P<s>.+) is) (?P<o>.+)",
    "original language": r"(The original language of (?P<s>.+) is) (?P<o>.+)",
    "performer": r"((?P<s>.+) was performed by) (?P<o>.+)",
    "place of birth": r"((?P<s>.+) was born in the city of) (?P<o>.+)",
    "place of death": r"((?P<s>.+) died in the city of) (?P<o>.+)",
    "position played": r"((?P<s>.+) plays the position of) (?P<o>.+)",
    "religion": r"((?P<s>.+) is affiliated with the religion of) (?P<o>.+)",
    "sport": r"((?P<s>.+) is associated with the sport of) (?P<o>.+)",
    "spouse": r"((?P<s>.+) is married to) (?P<o>.+)",
    "work location": r"((?P<s>.+) worked in the city of) (?P<o>.+)",
    "office": r"(The (?P<s>.+?) is) (?P<o>.+)",
}
_TEMPLATES = {relation: re.compile(pattern) for relation, pattern in _STATEMENTS.items()}


def _said(statement: str) -> dict[str, Any]:
    for relation, template in _TEMPLATES.items():
        found = template.fullmatch(statement)
        if found:
            return {
                "prompt": found[1],
                "subject": found["s"],
                "target_new": found["o"],
                "relation": relation,
            }
    prompt, _, target = statement.rpartition(" ")
    return {"prompt": prompt or statement, "target_new": target}


def _edit(record: dict[str, Any], path: Path, number: int) -> Edit:
    statement = text_field(record, "edit", path, number).strip().removesuffix(".")
    questions = record.get("questions")
    if not isinstance(questions, list) or not all(isinstance(q, str) for q in questions):
        raise wrong_format(path, number, "questions", f"must be a list of texts, got {questions!r}")
    kept = {k: v for k, v in record.items() if k not in ("edit", "questions")}
    fields = {**kept, **_said(statement), "rephrase_prompts": list(dict.fromkeys(questions))}
    return make_edit(fields, path, number)


def pokemqa_edits(records: list[dict[str, Any]], path: Path) -> list[Edit]:
    """Edits of a PokeMQA scope file; a statement that stands there twice becomes one edit."""
    edits: dict[str, Edit] = {}
    for number, record in enumerate(records, start=1):
        edit = _edit(record, path, number)
        before = edits.get(edit.id)
        if before is not None:
            asked = dict.fromkeys((*before.rephrase_prompts, *edit.rephrase_prompts))
            edit = before.model_copy(update={"rephrase_prompts": tuple(asked)})
        edits[edit.id] = edit
    return list(edits.values())
