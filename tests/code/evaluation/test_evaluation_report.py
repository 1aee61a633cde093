"""Plots and the HTML report: complete, self-contained, the same bytes twice."""

import html
import json
import re
from html.parser import HTMLParser

import pytest

from serac_core.evaluation.items import Item, Question, write_items
from serac_core.evaluation.metrics import compute_metrics
from serac_core.evaluation.plots import score_histogram, share_rows, write_plots
from serac_core.evaluation.report import IncompleteReport, write_report

THRESHOLD = 0.7
NASTY = 'What is <b>"R&D"</b> \ud800?'


def items():
    for number in range(40):
        relation = ("capital", "currency")[number % 2]
        yield Item(
            question=Question(
                part="model",
                group=("edit", "rephrase")[number % 4 > 0],
                query=NASTY if number == 3 else f"in {number}",
                target="new",
                expected_edit_id="e-1",
                relation=relation,
                held_out_relation=relation == "currency",
            ),
            answer="wrong" if number == 3 else "new",
            base_answer=None,
            correct=number != 3,
            in_scope=True,
            edit_id="e-1",
            nearest_edit_id="e-1",
            score=0.8 + number / 250,
            token_accuracy=1.0,
        )
        yield Item(
            question=Question(part="model", group="unrelated", query=f"out {number}"),
            answer="old",
            base_answer="old",
            correct=True,
            in_scope=False,
            edit_id=None,
            nearest_edit_id="e-1",
            score=None if number == 0 else 0.1,
        )


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "report"
    for part in (made, made / "live"):
        scored = list(items()) if part == made else []
        part.mkdir(parents=True)
        metrics = compute_metrics(scored)
        (part / "metrics.json").write_text(json.dumps(metrics))
        routing = {"threshold": THRESHOLD, "near_threshold": [], "int8_differs": []}
        if part == made:
            routing["int8_differs"] = [{"query": "in 5", "score": [0.7, 0.69]}]
        (part / "routing.json").write_text(json.dumps(routing))
        write_items(part / "items.jsonl", scored)
    log = made / "training" / "counterfactual" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(
        '{"step": 0, "edit/exact_match_before": 0.21}\n'
        '{"step": 10, "loss/train": 2.0, "edit/exact_match_val": 0.5}\n'
        '{"step": 20, "loss/train": 1.0, "edit/exact_match_val": 0.99}\n'
    )
    return made


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sources, self.open, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [values[name] for name in ("src", "srcset") if name in values]
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_one_whole_file(folder, tmp_path):
    out = tmp_path / "report.html"
    write_report(out, folder)
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.sources) == 10  # four pictures of figures and a curve, light and dark
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.findall(r'(?:href|src)="(?!#|data:)', text)
    assert "prefers-color-scheme: dark" in text


def test_failures_show_query_expected_got_and_score(folder, tmp_path):
    out = tmp_path / "report.html"
    write_report(out, folder)
    row = next(r for r in out.read_text().split("<tr>") if "R&amp;D" in r)
    cells = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
    assert cells[1] == NASTY.encode("utf-8", "backslashreplace").decode()
    assert cells[2:5] == ["new", "wrong", "0.8120"]


def test_fine_tuning_is_shown_before_and_after(folder, tmp_path):
    out = tmp_path / "report.html"
    write_report(out, folder)
    text = out.read_text()
    assert re.search(r"edit/exact_match_val</code></td>.*0\.2100</td>.*>0</td>.*0\.9900</td>", text)


def test_the_same_inputs_give_the_same_bytes(folder, tmp_path):
    for name in ("one", "two"):
        write_report(tmp_path / f"{name}.html", folder)
        write_plots(tmp_path / name, [i.row() for i in items()], {"intervals": {}}, THRESHOLD)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    for file in sorted((tmp_path / "one").rglob("*.*")):
        twin = tmp_path / "two" / file.relative_to(tmp_path / "one")
        assert file.read_bytes() == twin.read_bytes()


def test_a_missing_file_is_named(folder, tmp_path):
    (folder / "routing.json").unlink()
    with pytest.raises(IncompleteReport, match="routing"):
        write_report(tmp_path / "report.html", folder)
    assert not (tmp_path / "report.html").exists()


def test_plot_data():
    rows = [item.row() for item in items()]
    table = score_histogram(rows)
    for scope in ("in scope", "out of scope"):
        assert sum(r["share"] for r in table if r["scope"] == scope) == pytest.approx(1, abs=1e-4)
    highest = max(row["score"] for row in table if row["share"] and row["scope"] == "out of scope")
    assert highest == pytest.approx(0.1, abs=0.025)
    shares = share_rows(compute_metrics(list(items())))
    shown = [row["metric"] for row in shares]
    assert shown[:3] == ["edit/acc", "edit/exact_match", "generalization"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in shares)


def test_nothing_to_draw_is_no_error(tmp_path):
    write_plots(tmp_path, [], {"intervals": {}}, THRESHOLD)
    assert json.loads((tmp_path / "plots" / "scores.json").read_text()) == []
    assert list((tmp_path / "figures").iterdir()) == []
