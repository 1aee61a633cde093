"""A ramp: the widths of the live edits that a retraining goes through, the last of them all."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from serac_core.errors import SeracError

ALL = "all"


class InvalidRamp(SeracError):
    """A ramp breaks a rule, or asks for more edits than there are."""


@dataclass(frozen=True)
class Ramp:
    """Widths to go through.

    Attributes
    ----------
    narrower:
        Numbers of live edits, oldest first, before all of them; empty: all at once.
    """

    narrower: tuple[int, ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """All of them; 0, the last, stands for every live edit."""
        return (*self.narrower, 0)

    def __str__(self) -> str:
        return ",".join(map(width_name, self.widths))


def width_name(width: int) -> str:
    """What people call a width: its number, or `all`."""
    return str(width or ALL)


def parse_ramp(text: str) -> Ramp:
    """Read a ramp as people write it: `50,200,all`; empty or `all`: no narrower width.

    Raises
    ------
    InvalidRamp
        It doesn't end with `all`, or the others are no increasing whole numbers above 0.
    """
    *narrower, last = [part.strip() for part in (text.strip() or ALL).split(",")]
    remedy = "increasing whole numbers above 0, then `all`, as in 50,200,all"
    if last != ALL:
        raise InvalidRamp(f"ramp {text!r} ends with {last!r}, not with 'all'", remedy=remedy)
    for part in narrower:
        if not (part.isascii() and part.isdigit() and int(part)):
            raise InvalidRamp(f"ramp {text!r}: {part!r} is no whole number above 0", remedy=remedy)
    widths = tuple(map(int, narrower))
    for width, following in pairwise(widths):
        if following <= width:
            raise InvalidRamp(f"ramp {text!r}: {following} comes after {width}", remedy=remedy)
    return Ramp(widths)


def require_enough_edits(ramp: Ramp, live: int) -> None:
    """See that no width is larger than the number of live edits.

    Raises
    ------
    InvalidRamp
        Names the first width that is, and the number.
    """
    for width in ramp.narrower:
        if width > live:
            raise InvalidRamp(
                f"ramp {str(ramp)!r}: width {width}, and there are {live} live edits",
                remedy=f"leave out the widths above {live}; `all` takes every live edit",
            )
