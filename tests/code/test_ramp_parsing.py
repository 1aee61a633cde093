"""A ramp as people write it: read back, or refused with the rule it breaks."""

from __future__ import annotations

import pytest

from serac_core.ramp import InvalidRamp, parse_ramp, require_enough_edits


@pytest.mark.parametrize(
    ("text", "widths", "shown"),
    [
        ("50,200,all", (50, 200, 0), "50,200,all"),
        (" 1 , all ", (1, 0), "1,all"),
        ("all", (0,), "all"),
        ("", (0,), "all"),
    ],
)
def test_a_ramp_ends_with_every_live_edit(text: str, widths: tuple[int, ...], shown: str) -> None:
    ramp = parse_ramp(text)
    assert (ramp.widths, str(ramp)) == (widths, shown)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("50,200", "ends with '200', not with 'all'"),
        ("50,,all", "'' is no whole number above 0"),
        ("0,all", "'0' is no whole number above 0"),
        ("-5,all", "'-5' is no whole number above 0"),
        ("5.5,all", "'5.5' is no whole number above 0"),
        ("²,all", "'²' is no whole number above 0"),
        ("all,all", "'all' is no whole number above 0"),
        ("200,50,all", "50 comes after 200"),
        ("50,50,all", "50 comes after 50"),
    ],
)
def test_a_broken_rule_is_named(text: str, rule: str) -> None:
    with pytest.raises(InvalidRamp) as refused:
        parse_ramp(text)
    assert rule in refused.value.what and repr(text) in refused.value.what
    assert "50,200,all" in refused.value.remedy
    assert refused.value.exit_code == 2


def test_a_width_above_the_live_edits_is_named_with_their_number() -> None:
    ramp = parse_ramp("50,458,all")
    require_enough_edits(ramp, 458)
    with pytest.raises(InvalidRamp, match=r"width 458, and there are 457 live edits"):
        require_enough_edits(ramp, 457)
