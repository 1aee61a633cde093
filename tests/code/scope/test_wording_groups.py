"""Small classes of wordings that ask the same are joined for training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serac_core.edits.record import Edit
from serac_core.scope.wording_groups import SMALL, joined_classes

MEANINGS = {"university": 0, "college": 0, "born": 1, "died": 2}


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    vectors_TD = np.zeros((len(texts), 4), dtype=np.float32)
    for row, text in enumerate(texts):
        vectors_TD[row, next(n for word, n in MEANINGS.items() if word in text)] = 1.0
    return vectors_TD


def asking(template: str, name: str = "Ada") -> Edit:
    return Edit(prompt=template.format(name), target_new="there", subject=name)


def test_classes_that_ask_the_same_take_the_name_of_the_first() -> None:
    classed = [
        (asking("What university did {} attend?"), "b"),
        (asking("The college {} went to was what?"), "a"),
        (asking("Where was {} born?"), "c"),
        (asking("Where has {} died?"), "d"),
    ]
    assert joined_classes(classed, encode) == {"a": "a", "b": "a", "c": "c", "d": "d"}


def test_a_large_class_stays_as_it_is() -> None:
    large = [(asking("What university did {} attend?", f"Ada{n}"), "b") for n in range(SMALL)]
    small = [
        (asking("The college {} went to was what?"), "a"),
        (asking("Where was {} born?"), "c"),
    ]
    assert joined_classes([*large, *small], encode) == {"a": "a", "c": "c"}


def test_edits_that_do_not_name_their_subject_belong_to_no_class() -> None:
    unnamed = Edit(prompt="Where was she born?", target_new="there", subject="Ada")
    assert joined_classes([(unnamed, "a"), (asking("Where was {} born?"), "c")], encode) == {}
