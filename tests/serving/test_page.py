"""The page in a real browser: both answers and why, the edits, by keyboard, light and dark."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from processes import QUERY_KEY, ROOT
from swap_release import EDITS, make_edits, write_release
from threads import serving

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
ARTEFACTS = ROOT / ".serac/test-artefacts"
MARKUP = '<img src=x onerror=alert(1)> & "tea" in Norway'

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH: install the package `chromium`"
)

# Least contrast of each text with what lies behind it, 4.5 by WCAG 2.2 AA.
_CONTRASTS = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = channels(color).slice(0, 3).map((v) => {
      const share = v / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      const parts = channels(color);
      if (parts.length < 4 || parts[3] > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const element of document.querySelectorAll("body *:not(svg *)")) {
    const text = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!text || element.disabled || !element.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push([element.id || element.className, contrast]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> Iterator[str]:
    """A router with a local base and 30 edits, one of which is no friend of HTML."""
    names = [(f"e-{n:02}", f"What does {n} name?", str(n), f"answer {n}") for n in range(24)]
    edits = make_edits((*names, ("e-markup", MARKUP, "Norway", "<b>bold</b>"), *EDITS))
    release = write_release(tmp_path_factory.mktemp("page") / "v1.4.0", edits, base=str(base_model))
    with serving(release, device="cpu") as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser: playwright.Browser) -> Iterator[Callable[..., playwright.Page]]:
    """Opens pages; at the end none may have complained."""
    contexts, complaints = [], []

    def opened(address: str, *, quiet: bool = True, **options: object) -> playwright.Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        if quiet:
            page.on("console", lambda said: complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def shown(page: playwright.Page, name: str) -> str:
    return page.locator(f"#{name}").inner_text()


def ask(page: playwright.Page, query: str) -> None:
    page.fill("#question", query)
    page.press("#question", "Enter")
    playwright.expect(page.locator("#ask-button")).to_be_enabled()
    playwright.expect(page.locator("#result")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_an_edited_question_shows_both_answers_and_why(
    url: str, open_page: Callable[..., playwright.Page], scheme: str, width: int
) -> None:
    page = open_page(url, color_scheme=scheme, viewport={"width": width, "height": 800})
    playwright.expect(page.locator("#edit-rows tr")).to_have_count(12)
    assert shown(page, "served") == "v1.4.0, 30 edits"
    ask(page, "The capital of Norway is")
    answer = httpx.post(f"{url}/answer", json={"query": "The capital of Norway is"}).json()
    assert answer["in_scope"] and answer["edit_id"] == "e-capital-norway"
    assert shown(page, "base-answer") == answer["base_answer"].strip()
    assert shown(page, "edited-answer") == answer["edited_answer"].strip()
    assert shown(page, "route-title").startswith("In scope")
    assert shown(page, "route-text") == "The capital of Norway is → Bergen"
    assert f"threshold {answer['threshold']:.4f}" in shown(page, "figures")
    first = page.locator("#candidates li").first
    assert "e-capital-norway" in first.inner_text() and "matched" in (
        first.get_attribute("class") or ""
    )
    chart = page.locator("#chart svg")
    assert "threshold 0.8000" in (chart.get_attribute("aria-label") or "")
    assert chart.locator(".chart-dot.matched").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(_CONTRASTS) == []
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"page-{scheme}-{width}.png", full_page=True)

    ask(page, "weather now")
    assert shown(page, "route-title").startswith("Out of scope")
    assert shown(page, "base-answer") == shown(page, "edited-answer")
    assert page.locator(".matched").count() == 0
    assert page.evaluate(_CONTRASTS) == []


def test_everything_is_done_by_keyboard_alone(
    url: str, open_page: Callable[..., playwright.Page]
) -> None:
    page = open_page(url)
    playwright.expect(page.locator("#edit-rows tr")).to_have_count(12)

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id"))

    def tab_to(wanted: str) -> None:
        for _ in range(60):
            if focused() == wanted:
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{wanted} can't be reached")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the question"
    page.keyboard.press("Enter")
    tab_to("question")
    page.keyboard.type("Which money does France use?")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#route-text")).to_have_text(
        "Which money does France use? → krone"
    )
    assert focused() == "question"
    assert shown(page, "status").startswith("In scope. Base model: ")

    tab_to("search")
    page.keyboard.type("labé")
    playwright.expect(page.locator("#edits-count")).to_have_text("1 to 1 of 1, newest first")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#route-text")).to_have_text(
        "What is the capital of Guinea? → Labé"
    )
    assert focused() == "question"

    page.keyboard.press("Shift+Tab")
    assert focused() == "theme-button"
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    assert page.evaluate(_CONTRASTS) == []


def test_edits_are_browsed_and_searched(
    url: str, open_page: Callable[..., playwright.Page]
) -> None:
    page = open_page(url)
    rows = page.locator("#edit-rows tr")
    playwright.expect(page.locator("#edits-count")).to_have_text("1 to 12 of 30, newest first")
    assert "Tell me a joke about tea" in rows.first.inner_text()
    assert page.locator("#previous").is_disabled()
    page.click("#next")
    playwright.expect(page.locator("#edits-count")).to_have_text("13 to 24 of 30, newest first")
    page.click("#next")
    playwright.expect(rows).to_have_count(6)
    assert page.locator("#next").is_disabled()

    page.fill("#search", "onerror")
    playwright.expect(rows).to_have_count(1)
    assert MARKUP in rows.first.inner_text() and "<b>bold</b>" in rows.first.inner_text()
    page.fill("#search", "no such edit")
    playwright.expect(page.locator("#edits-count")).to_have_text(
        "No edit has “no such edit” in it."
    )


def test_a_key_is_asked_for_and_kept_in_the_tab(
    release: Path, upstream: str, open_page: Callable[..., playwright.Page]
) -> None:
    with serving(release, upstream, keys=True, device="cpu") as (address, _):
        page = open_page(address, quiet=False)
        playwright.expect(page.locator("#error")).to_contain_text("Enter an API key above")
        playwright.expect(page.locator("#key")).to_be_focused()
        page.keyboard.type(QUERY_KEY)
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#edit-rows tr")).to_have_count(3)
        playwright.expect(page.locator("#error")).to_be_hidden()
        ask(page, "The capital of France is")
        assert shown(page, "route-text").endswith("Lyon")
        assert QUERY_KEY not in page.content()
        assert page.evaluate("JSON.stringify(localStorage)").find(QUERY_KEY) == -1


def test_the_report_is_a_page_of_its_own_without_scripts(tmp_path: Path, base_model: Path) -> None:
    release = write_release(
        tmp_path / "release", base=str(base_model), report="<style>p{}</style><p>Report</p>"
    )
    with serving(release, device="cpu") as (address, _):
        found = httpx.get(f"{address}/release/report")
        assert found.text.endswith("<p>Report</p>")
        policy = found.headers["content-security-policy"]
        assert "sandbox" in policy and "default-src 'none'" in policy
        index = httpx.get(address)
        assert "unsafe" not in index.headers["content-security-policy"]
        again = httpx.get(address, headers={"if-none-match": index.headers["etag"]})
        assert again.status_code == 304
        assert httpx.get(f"{address}/static/page.py").status_code == 404


def test_a_release_without_a_report_says_so(url: str) -> None:
    found = httpx.get(f"{url}/release/report")
    assert found.status_code == 404 and "has no report" in found.json()["error"]["message"]
