"""Yes/no questions in a frame: what they ask without it, and that the router compares that too."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_training import save_encoder

from serac_core.edits.record import Edit
from serac_core.scope.cohort import Cohort
from serac_core.scope.encoder import TorchEncoder
from serac_core.scope.framed import bare_readings
from serac_core.scope.loading import load_encoder
from serac_core.scope.memory import EditMemory
from serac_core.scope.router import Router

MADE = ("is X made in Oslo?", "X is made in")


@pytest.mark.parametrize(
    "frame",
    [
        "Is it wrong to think that {}?",
        "Isn't it so that {}?",
        "Would it be a mistake to say that {}?",
        "Do you believe that {}, and is that correct?",
        "Am I right in thinking that {}?",
        "Would you disagree that {}?",
        "I heard that {}. Is that false?",
        "Somebody says that {}. Is this wrong?",
        "Yes or no: is it true that {}?",
        "{}, right?",
        "{}: is that wrong?",
    ],
)
def test_a_frame_is_left_off_whatever_it_says(frame: str) -> None:
    assert bare_readings(frame.format("X is made in Oslo")) == MADE


@pytest.mark.parametrize(
    ("said", "readings"),
    [
        ("Isn't X made in Oslo?", MADE),
        ("Is X not made in Oslo?", MADE),
        ("Is X made in anything but Oslo?", MADE),
        ("Is X made in Oslo?", ("X is made in",)),
        ("Is the capital of X Lima?", ("the capital of X is",)),
        ("Is something other than Lima the capital of X?", ("is Lima the capital of X?",)),
        ("Is it true that X plays trumpet?", ("X plays trumpet?", "X plays")),
        ("Is it true that X is Lima?", ("is X Lima?",)),
        ("What is the capital of X? Is it Lima?", ("What is the capital of X?",)),
        ('Is Lima the answer to "What is the capital of X?"?', ("What is the capital of X?",)),
    ],
)
def test_what_is_denied_or_asked_is_found(said: str, readings: tuple[str, ...]) -> None:
    assert bare_readings(said) == readings


@pytest.mark.parametrize(
    "said",
    [
        "What is the capital of X?",
        "The capital of X is",
        "X is made in Oslo.",
        "Do you know the day that X died?",
        "Can you tell me who said that X is big?",
        "Who says that X is big, right?",
        "Did he announce that X is in Oslo?",
        "Can you tell me X now?",
        "Is it true that X is in Oslo. The mayor of Bergen is Ann?",
        "Is it true that Oslo is big?",
        "",
        "X",
    ],
)
def test_other_texts_have_no_frame(said: str) -> None:
    assert bare_readings(said) == ()


def test_the_router_takes_the_reading_that_scores_best(tmp_path: Path) -> None:
    encoder = TorchEncoder(load_encoder(str(save_encoder(tmp_path))), Cohort())
    stored = [
        Edit(id=f"e-{place}", prompt=f"in {place} people pay with", subject=place, target_new="tea")
        for place in ("peru", "chad")
    ]
    router = Router(encoder, EditMemory.build(stored, encoder), threshold=0.999)
    (found,) = router.candidates(["is it false that in peru people pay with tea ?"])
    (plain,) = router.candidates(["in peru people pay with"])
    assert [candidate.edit_id for candidate in found] == ["e-peru"]
    assert found[0].compared == "in X people pay with" == plain[0].compared
    assert found[0].score == pytest.approx(plain[0].score, abs=1e-6)
    decisions = router.route(["is it false that in peru people pay with tea ?", "peru tea ?"])
    assert [decision.edit_id for decision in decisions] == ["e-peru", None]
