"""What an edit is about where its record doesn't say."""

from __future__ import annotations

import pytest

from serac_core.edits.inferred_subject import inferred_subject, subject_or_inferred
from serac_core.edits.record import Edit


@pytest.mark.parametrize(
    ("prompt", "target", "subject"),
    [
        ("The capital of France is", "Lyon", "France"),
        ("Lionel Messi plays for FC Bergen", "FC Bergen", "Lionel Messi"),
        ("A. J. Cronin speaks the language of", "Greek", "A. J. Cronin"),
        ("What is France's capital?", "Lyon", "France"),
        ("Where was Simone de Beauvoir born?", "Oslo", "Simone de Beauvoir"),
        ("The rector of the University of Oslo is", "Bo", "University of Oslo"),
        ("What does Ada Moss play? They play", "flute", "Ada Moss"),
        ("'Abbey Road' was recorded by", "Abba", "Abbey Road"),
        ("Is Paris the capital of France?", "no", None),  # two names
        ("The Normal Heart was written by", "Bo", "Normal Heart"),
        ("The author of The Normal Heart is", "Bo", "Normal Heart"),
        ("My Generation is by The Who", "My Generation", "The Who"),
        ("How is bread baked?", "slowly", None),
        ("France", "France", None),
        ("", "", None),
    ],
)
def test_the_only_name_in_the_prompt(prompt: str, target: str, subject: str | None) -> None:
    assert inferred_subject(prompt, target) == subject


def test_what_the_record_says_counts_even_where_it_says_none() -> None:
    edit = Edit(prompt="The capital of France is", target_new="Lyon")
    assert subject_or_inferred(edit) == "France"
    assert subject_or_inferred(edit.model_copy(update={"subject": "capital"})) == "capital"
    assert subject_or_inferred(edit.model_copy(update={"subject": ""})) == ""
