"""The gate on recorded evidence: what opens it, and each thing that closes it."""

import pytest

from serac_core.config import GateConfig
from serac_core.release.gate import Latency, render_table, run_gate

CONFIG = GateConfig()
PARITY = {"parity": {"fp32": {"max_abs_diff": 2e-6}}}
FAST = Latency(route_ms=3.0, encode_ms=2.5, calls=200)
METRICS = {
    "edit/acc": 0.99,
    "edit/exact_match": 0.98,
    "generalization": 0.97,
    "generalization/held_out_relations": 0.95,
    "locality/same_subject": 0.995,
    "locality/same_relation": 0.99,
    "locality/unrelated": 1.0,
    "locality/traffic": 1.0,
    "answers_changed": 0.003,
    "answers_changed/upper95": 0.0058,
    "routed_out/answers_changed": 0.0,
    "acc/pre": 0.95,
    "acc/post": 0.948,
    "mcnemar/p": 0.4,
    "mcnemar/lost": 3,
    "mcnemar/gained": 1,
    "mcnemar/n": 1600,
    "routing/int8_agreement": 0.998,
    "parity/decisions": 1.0,
    "intervals": {},
}


def rows(group, hits):
    return [
        {"key": f"{group}{n}", "part": "model", "group": group, "correct": hit}
        for n, hit in enumerate(hits)
    ]


def judge(changes=None, items=(), champion=None, parity=PARITY, latency=FAST, config=CONFIG):
    metrics = {**METRICS, **(changes or {})}
    return run_gate(metrics, items, champion, parity, latency, config)


def failed(result):
    return [check.name for check in result.failed]


def test_a_good_first_release_passes():
    result = judge()
    assert result.passed, render_table(result)
    assert "no champion yet" in result.checks[-1].note


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("edit/acc", 0.94),
        ("edit/exact_match", 0.94),
        ("generalization", 0.94),
        ("generalization/held_out_relations", 0.89),
        ("locality/same_subject", 0.97),
        ("locality/same_relation", 0.97),
        ("locality/unrelated", 0.97),
        ("locality/traffic", 0.97),
        ("answers_changed/upper95", 0.011),
        ("routed_out/answers_changed", 0.0006),
        ("routing/int8_agreement", 0.99),
        ("parity/decisions", 0.9994),
    ],
)
def test_a_bound_that_is_broken_closes_the_gate_and_is_named(name, bad):
    result = judge({name: bad})
    assert failed(result) == [name]
    assert result.failed[0].value == bad


@pytest.mark.parametrize("name", [n for n in METRICS if n.startswith(("edit/", "generalization"))])
def test_what_was_not_measured_does_not_pass(name):
    metrics = {key: value for key, value in METRICS.items() if key != name}
    result = run_gate(metrics, [], None, PARITY, FAST, CONFIG)
    assert failed(result) == [name]
    assert "not measured" in result.failed[0].note


@pytest.mark.parametrize("kind", ["same_subject", "same_relation", "unrelated"])
def test_each_near_miss_kind_must_be_measured(kind):
    metrics = {key: value for key, value in METRICS.items() if key != f"locality/{kind}"}
    assert failed(run_gate(metrics, [], None, PARITY, FAST, CONFIG)) == [f"locality/{kind}"]


def test_not_a_number_does_not_pass():
    broken = {name: float("nan") for name in METRICS if name != "intervals"}
    broken |= {"mcnemar/lost": 0, "mcnemar/gained": 0, "mcnemar/n": 1}
    result = judge(broken, latency=Latency(float("nan"), 1.0, 1))
    assert {check.name for check in result.checks if check.passed} <= {
        "parity/fp32",
        "regression",
    } | {"stability/mcnemar_p"}


def test_a_fall_in_accuracy_out_of_scope_closes_the_gate():
    assert failed(judge({"acc/post": 0.94})) == ["stability/pre_post"]


def test_mcnemar_needs_significance_and_size():
    significant = {"mcnemar/p": 0.004, "mcnemar/gained": 0}
    assert judge({**significant, "mcnemar/lost": 8}).passed  # 0.5 % of 1600: a trifle
    assert failed(judge({**significant, "mcnemar/lost": 9})) == ["stability/mcnemar_p"]


def test_stability_is_uninformative_where_the_base_knows_nothing():
    result = judge({"acc/pre": 0.1, "acc/post": 0.0, "mcnemar/p": 0.001, "mcnemar/lost": 160})
    notes = {check.name: check for check in result.checks}
    assert result.passed
    assert notes["stability/pre_post"].note.startswith("uninformative: acc/pre 0.1000")
    assert notes["stability/mcnemar_p"].note.startswith("uninformative")
    assert not judge({"acc/pre": 0.1, "answers_changed/upper95": 0.02}).passed


def test_parity():
    assert failed(judge(parity={"parity": {"fp32": {"max_abs_diff": 2e-4}}})) == ["parity/fp32"]
    assert failed(judge(parity={})) == ["parity/fp32"]


def test_int8_must_be_compared_where_it_is_exported():
    metrics = {k: v for k, v in METRICS.items() if k != "routing/int8_agreement"}
    assert run_gate(metrics, [], None, PARITY, FAST, CONFIG).passed
    exported = {"parity": {**PARITY["parity"], "int8": {"max_abs_diff": 0.1}}}
    assert failed(run_gate(metrics, [], None, exported, FAST, CONFIG)) == ["routing/int8_agreement"]


def test_latency():
    assert failed(judge(latency=Latency(5.1, 2.5, 200))) == ["latency/ratio"]
    assert failed(judge(latency=None)) == ["latency/ratio"]


def test_some_of_the_live_edits_close_the_gate_only_by_more_than_chance():
    def verdict(share, low, high, sample):
        name = "locality/same_subject"
        interval = {"low": low, "high": high, "n": 89}
        live = {"edit/exact_match": 1.0, name: share, "intervals": {name: interval}}
        result = run_gate({**METRICS, "live": live}, (), None, PARITY, FAST, CONFIG, sample=sample)
        return next(check for check in result.checks if check.name == f"live/{name}")

    chance, worse = (0.9438, 0.8752, 0.9758), (0.8876, 0.8053, 0.9378)
    assert verdict(*chance, sample=True).passed
    assert "95 %: 0.875 to 0.976, n=89; chance may" in verdict(*chance, sample=True).note
    assert not verdict(*worse, sample=True).passed
    assert not verdict(*chance, sample=False).passed


def test_a_regression_needs_significance_and_size():
    champion = rows("rephrase", [True] * 1000)
    small = rows("rephrase", [False] * 10 + [True] * 990)  # 1 %: allowed
    assert judge(items=small, champion=champion).passed
    large = rows("rephrase", [False] * 11 + [True] * 989)
    result = judge(items=large, champion=champion)
    assert failed(result) == ["regression/model/rephrase"]
    assert result.failed[0].value == pytest.approx(0.011)
    assert "11 lost, 0 gained" in result.failed[0].note
    few = judge(items=rows("edit", [False] * 2), champion=rows("edit", [True] * 2))
    assert few.passed  # 100 % worse, on two items: may be chance


def test_only_shared_items_are_compared():
    champion = rows("edit", [True] * 500)
    other = [
        {**row, "key": "new" + row["key"], "correct": False} for row in rows("edit", [0] * 500)
    ]
    result = judge(items=other, champion=champion)
    assert result.passed
    assert "not comparable" in result.checks[-1].note


def test_live_edits_have_bounds_of_their_own():
    live = {
        "edit/exact_match": 0.91,
        "locality/same_subject": 0.96,
        "routed_out/answers_changed": 0.0,
        "intervals": {},
    }
    assert judge({"live": live}).passed
    assert failed(judge({"live": {**live, "edit/exact_match": 0.5}})) == ["live/edit/exact_match"]
    assert failed(judge({"live": {**live, "locality/same_subject": 0.5}})) == [
        "live/locality/same_subject"
    ]
    empty = judge({"live": {"intervals": {}}})
    assert empty.passed
    assert any(check.note == "there are no live edits" for check in empty.checks)


def test_the_table_names_checks_values_bounds_and_verdicts():
    table = render_table(judge({"edit/acc": 0.5}))
    line = next(line for line in table.splitlines() if line.startswith("edit/acc"))
    assert line.split()[1:5] == ["0.5", ">=", "0.95", "FAILED"]
    assert table.splitlines()[-1] == "gate closed: edit/acc"
    assert render_table(judge()).splitlines()[-1].startswith("gate open")
