"""Invented names: targets and subjects that no model has met, so that only copying answers them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

_ONSETS = [
    "b",
    "br",
    "c",
    "ch",
    "cl",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gl",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "qu",
    "r",
    "s",
    "sh",
    "sk",
    "st",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "y",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "au", "ea", "ei", "ia", "io", "oa", "ou", "y"]
_CODAS = ["", "", "", "l", "m", "n", "r", "s", "t", "x", "nd", "rk", "st", "lm", "sk"]
_FRAMES = (
    "{} of {}",
    "{} and {}",
    "Saint {} {}",
    "the {} of {}",
    "{} {} the Younger",
    "Port {} {}",
)
_SCRIPTS = (
    "абвгдежзиклмнопрстуфхцчшэюя",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "äöüßéèêçñøåčšžłőí",
    "日本東京山川大小中国人口水火木金土北南西",
    "ابتثجحخدرزسشصضطعغفقكلمنهوي",
    "अआइईउकखगघचजटडतदनपबमयरलवसह",
)


def invented_word(rng: Random) -> str:
    """A pronounceable word of two or three syllables, capitalised."""
    syllables = rng.choice((2, 2, 3))
    word = "".join(
        rng.choice(_ONSETS)
        + rng.choice(_VOWELS)
        + (rng.choice(_CODAS) if i == syllables - 1 else "")
        for i in range(syllables)
    )
    return word.capitalize()


def invented_name(rng: Random) -> str:
    """One to five words; half of them several words long, some with digits."""
    draw = rng.random()
    if draw < 0.45:
        return invented_word(rng)
    if draw < 0.75:
        return f"{invented_word(rng)} {invented_word(rng)}"
    if draw < 0.92:
        return rng.choice(_FRAMES).format(invented_word(rng), invented_word(rng))
    return f"{invented_word(rng)} {rng.randrange(2, 999)}"


def invented_number(rng: Random) -> str:
    """Digits, as in dates, codes and counts."""
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randrange(1, 5)))
    return rng.choice(("", "", "+", ".")) + digits


def foreign_name(rng: Random) -> str:
    """One or two words in another script."""
    letters = rng.choice(_SCRIPTS)
    words = [
        "".join(rng.choice(letters) for _ in range(rng.randrange(2, 6)))
        for _ in range(rng.choice((1, 1, 2)))
    ]
    return " ".join(words)


def joined_pieces(rng: Random, pieces: Sequence[str]) -> str:
    """One to ten tokens of a vocabulary in a row: no token is too rare to be copied."""
    drawn = (rng.choice(pieces) for _ in range(rng.choice((1, 2, 3, 4, 5, 6, 8, 10))))
    return " ".join("".join(drawn).split()) or "x"
