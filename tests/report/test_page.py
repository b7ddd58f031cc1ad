"""The report's page in a real browser: at a desk, on a phone, in light, in the dark and on paper.

Needs: chromium.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from icu_ray.report.collect import collect
from icu_ray.report.figures.theme import DARK, LIGHT, Theme, styles
from icu_ray.report.formats.record_page import record_html
from icu_ray.report.numbers.rows import make_blocks
from icu_ray.report.write import write_report
from icu_ray.requests.record import plain_verdict, thresholds_told
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.storage.trial_files import TrialPaths, read_result, read_samples, write_result
from icu_ray.storage.verdict import verdict_of
from tests.support.contrast import contrast
from tests.support.report_case import Cell, write_sweep

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
CELLS = [
    Cell("icu", "icu", alpha, beta, sample, model, final=(0.5 + sample / 20, 0.04, 24.0 + beta, 3.8))
    for model in ("125m", "a-model-of-a-very-long-name/that-no-phone-shows-on-one-line")
    for sample in (0, 1)
    for alpha, beta in ((0.5, 0.5), (0.5, 1.0), (0.5, 2.0), (0.0, 0.0))
] + [Cell("kl", "kl", 0.0, 1.0, 0, "125m", status="failed", reason="/a/path/" + "of-many-letters" * 12)]

# Contrast of each text with the nearest ground that is painted behind it, as WCAG 2 defines it.
CONTRASTS = """() => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => { const [r, g, b] = numbers(color).map(channel); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor, parts = numbers(color);
      if (parts.length === 3 || parts[3] === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !e.offsetParent) continue;
    const ink = getComputedStyle(e).color, paper = ground(e);
    const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
    found[`${e.tagName} ${ink} on ${paper}`] = (a + 0.05) / (b + 0.05);
  }
  return found;
}"""

# What reaches beyond the window's right edge without standing in a box of its own that scrolls.
OVERFLOWING = """() => [...document.querySelectorAll("body *")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && !e.parentElement.closest(".scroll, .picture"))
  .map(e => e.outerHTML.slice(0, 120))"""


@dataclass
class Opened:
    """The page, and what happened while it was open."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("page")
    write_sweep(storage, "seen", CELLS, said="Alice <img src=http://127.0.0.1:9/x> lives at 12 Elm Street")
    return Path(write_report([(str(storage), "seen")]).folder)


@pytest.fixture(scope="module")
def opened(browser: Browser, folder: Path) -> Iterator[Opened]:
    found = Opened(browser.new_page())
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    found.page.on("console", lambda said: found.errors.append(said.text) if said.type == "error" else None)
    found.page.goto((folder / "report.html").as_uri())
    yield found
    found.page.close()


def look(page: Page, width: int, scheme: Literal["light", "dark"]) -> dict[str, Any]:
    page.set_viewport_size({"width": width, "height": 850})
    page.emulate_media(media="screen", color_scheme=scheme)
    return {
        "ground": page.evaluate("getComputedStyle(document.body).backgroundColor"),
        "contrasts": page.evaluate(CONTRASTS),
        "figure": page.evaluate("document.querySelector('figure img').currentSrc"),
    }


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_sideways(opened: Opened, width: int) -> None:
    page = opened.page
    look(page, width, "light")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOWING) == []
    # What is wider than a phone scrolls in its own box, within reach of the keyboard.
    boxes = page.locator(".scroll, .picture")
    scrolling = boxes.evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.tabIndex)")
    assert set(scrolling) == {0} and (width > 390 or len(scrolling) > 5)
    assert page.locator("table, figure img").evaluate_all("all => all.every(e => e.closest('.scroll, .picture'))")


def test_both_schemes_can_be_read(opened: Opened) -> None:
    light, dark = (look(opened.page, 1280, scheme) for scheme in ("light", "dark"))
    assert light["ground"] == "rgb(255, 255, 255)"
    assert dark["ground"] == "rgb(22, 25, 30)"
    assert not set(light["contrasts"]) & set(dark["contrasts"])  # every text changes its colours
    for seen in (light, dark):
        assert len(seen["contrasts"]) > 10
        assert min(seen["contrasts"].values()) >= 4.5, seen["contrasts"]
    assert light["figure"] != dark["figure"]


def test_paper_is_light_and_holds_everything(opened: Opened) -> None:
    page = opened.page
    on_screen = look(page, 1280, "light")["figure"]
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
    # The browser chooses the picture anew some time after the medium has changed.
    page.wait_for_function("picture => document.querySelector('figure img').currentSrc === picture", arg=on_screen)
    # A4 landscape less its margins, at 96 dots an inch.
    page.set_viewport_size({"width": 1032, "height": 700})
    wide = page.locator("table, figure img").evaluate_all(
        "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 200))"
    )
    assert wide == []


def test_a_reader_who_does_not_see_it(opened: Opened) -> None:
    page = opened.page
    levels = page.locator("h1, h2, h3, h4, h5, h6").evaluate_all("all => all.map(e => Number(e.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    figures = page.locator("img").evaluate_all("all => all.map(e => [e.alt.length, e.naturalWidth])")
    assert len(figures) >= 4 and all(alt > 20 and width > 100 for alt, width in figures)
    for link in page.get_by_role("navigation").get_by_role("link").all():
        target = link.get_attribute("href") or ""
        assert page.locator(f"h2{target}").count() == 1


def test_it_asks_for_nothing_and_complains_of_nothing(opened: Opened) -> None:
    for width, scheme in ((1280, "dark"), (390, "light")):
        look(opened.page, width, scheme)  # type: ignore[arg-type]
        opened.page.reload()
    assert [url for url in opened.requests if not url.startswith("data:")] == [opened.page.url] * 3
    assert opened.errors == []


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """The page of a single trial and the record of a request, each with the verdict that it has to show."""
    storage = tmp_path_factory.mktemp("answers")
    cell = Cell("icu", "icu", 0.5, 1.0, model="a-model-of-a-very-long-name-that-no-phone-shows-on-one-line")
    write_sweep(storage, "one", [cell])
    paths = TrialPaths.of(str(storage), "one", cell.trial_id)
    result = read_result(paths)
    assert result is not None and result.before is not None and result.after is not None
    heldout = {"ma_heldout": 0.54, "el_heldout": 0.23, "heldout_texts": 16}
    before, after = replace(result.before, **heldout), replace(result.after, **heldout, ppl_heldout=496.6)
    limits = Thresholds(Limit(0.56, "heldout", 0.1, 16), Limit(0.23, "heldout", 0.1, 16), "and", 1.5)
    result = replace(result, before=before, after=after, thresholds=limits)
    write_result(paths, result)
    report = Path(write_report([(str(storage), "one")]).folder) / "report.html"
    verdict = verdict_of(result, read_samples(paths))
    assert verdict is not None and verdict.outcome == "too_costly"
    record = storage / "record.html"
    record.write_text(record_html(record_case(plain_verdict(result, verdict), thresholds_told(limits))))
    return {"report": (report, verdict.headline), "record": (record, verdict.headline)}


def record_case(verdict: dict[str, Any], thresholds: dict[str, Any]) -> dict[str, Any]:
    """What record.json holds, with names as long as they may be."""
    long = "a-folder-of-a-long-name/" * 6
    names = [f"text-{n:03}-of-a-forget-file-with-long-ids" for n in range(30)]
    sides = [f"{key}_{side}" for key in ("ma", "el10") for side in ("before", "after")]
    return {
        "id": "ticket-2026-11-27-of-the-data-protection-officer",
        "asked_by": None,
        "verdict": verdict,
        "started": "2026-11-27T18:00:00Z",
        "ended": "2026-11-27T18:10:00Z",
        "written": "2026-11-27T18:10:01Z",
        "command": f"icu-ray unlearn --model {long}model --forget {long}forget.jsonl --out {long}out",
        "thresholds": thresholds,
        "model": {"source": f"{long}model", "revision": None, "sha256_before": "a" * 64, "sha256_after": "b" * 64},
        "earlier_requests": [{"id": "r1", "texts": 2, "ended": None}],
        "texts": {
            "count": 30,
            "file": f"{long}forget.jsonl",
            "cut": 2,
            "row_tokens": 200,
            "in_windows": 0,
            "each": [{"id": name, "sha256": "c" * 64, **dict.fromkeys(sides, 0.5)} for name in names],
        },
        "scores": {side: {"ma": 0.5, "el10": None} for side in ("before", "after")},
        "heldout": {"rows": 16},
        "cost": {
            "heldout_perplexity": {"before": 20.0, "after": 496.6, "ratio": 24.83},
            "first_original": {"perplexity": None, "why_not": f"{long}model cannot be loaded"},
            "tasks": {"cls/a_task_of_a_very_long_name_for_a_phone_acc": {"before": 0.5, "after": None}},
        },
        "also_checked": [
            {"file": f"{long}earlier.jsonl", "count": 2, "forgotten": False}
            | {key: {"before": 0.1, "after": None} for key in ("ma", "el10")}
        ],
        "method": {"name": "icu", "epochs": 4, "lr": 5e-6},
        "versions": {"icu_ray": "0.1.0", "commit": "c0ffee" * 7, "torch": "2"},
    }


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("kind", ["report", "record"])
def test_an_answer_is_read_at_a_desk_and_on_a_phone(
    kind: str, width: int, browser: Browser, answers: dict[str, tuple[Path, str]]
) -> None:
    path, headline = answers[kind]
    page = browser.new_page(viewport={"width": width, "height": 850})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto(path.as_uri())
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.evaluate(OVERFLOWING) == []
    if kind == "record" and width > 400:  # a long name hides no column
        hidden = page.locator(".scroll").evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth).length")
        assert hidden == 0
    shown = page.get_by_text(headline, exact=True)
    assert shown.count() == 1 and shown.is_visible()
    for words in ("forgotten?", "held-out texts", "what is left?"):
        assert page.locator("dt", has_text=words).first.is_visible()
    assert page.get_by_text("16 texts: mean MA 54.00 % → 54.00 %").is_visible()
    assert errors == []
    page.close()


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_ten_cells_of_each_method_stand_out_from_the_paper(theme: Theme, tmp_path: Path) -> None:
    methods = ("icu", "kumpr", "kl", "llmu", "po", "dpo", "npo", "mine")
    cells = [Cell(method, method, 0.1, beta / 10, status="running") for method in methods for beta in range(1, 11)]
    write_sweep(tmp_path, "many", cells)
    blocks = make_blocks(collect([(str(tmp_path), "many")]))
    colours = {style.color for style in styles(theme, blocks).values()}
    assert len(colours) >= 40  # those that have α and β have ten each
    assert min(contrast(colour, theme.paper) for colour in colours) >= 3  # WCAG 2 for lines and marks
