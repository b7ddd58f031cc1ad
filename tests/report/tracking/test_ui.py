"""MLflow's own pages show a sweep as the README says: its trials, their search, their comparison, their words.

Needs: chromium, an MLflow server of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from icu_ray.report.numbers.summary import summarise, write_tables
from icu_ray.report.tracking.sync import sync_sweep
from icu_ray.report.tracking.views import NOTE_TAG
from icu_ray.report.write import write_report
from icu_ray.storage.el_names import plain
from icu_ray.storage.trial_files import TrialPaths, read_events, trial_ids
from tests.support.mlflow_server import Server
from tests.support.report_case import Cell, write_sweep

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
NAME = "seen"
CELLS = [
    Cell("icu", "icu", 0.5, 1.0, 0, final=(0.55, 0.04, 24.0, 3.8), epochs=4),
    Cell("icu", "icu", 0.5, 1.0, 1, final=(0.59, 0.03, 25.0, 3.9), epochs=3),
    Cell("icu", "icu", 0.5, 2.0, 0, final=(0.70, 0.20, 21.0, 4.0), epochs=5, status="not_forgotten"),
    Cell("ascent", "icu", 0.0, 0.0, 0, final=(0.20, 0.01, 400.0, 0.7), epochs=2),
    Cell("kl", "kl", 0.0, 1.0, 0, final=(0.58, 0.02, 22.0, 4.1), epochs=2),
]
NAMES = {"icu-125m-s0-a0.5-b1.0", "icu-125m-s1-a0.5-b1.0", "icu-125m-s0-a0.5-b2.0", "ascent-125m-s0-a0.0-b0.0"}
NAMES |= {"kl-125m-s0-a0.0-b1.0"}


@dataclass
class Shown:
    """A sweep on a server, and a browser's page on it."""

    storage: Path
    uri: str
    experiment: str
    page: Page

    def open(self, path: str) -> None:
        self.page.goto("about:blank")  # an address that differs behind its # alone would not be loaded anew
        self.page.goto(f"{self.uri}/#/experiments/{self.experiment}{path}")

    def runs(self) -> str:
        return "/runs?workflowType=machine_learning"

    def histories(self, metric: str) -> dict[str, list[tuple[int, float]]]:
        """What storage holds of every trial, by its name."""
        found = {}
        for trial_id in trial_ids(str(self.storage), NAME):
            paths = TrialPaths.of(str(self.storage), NAME, trial_id)
            found[trial_id.removesuffix("-42")] = [(e.epoch, plain(e.scores)[metric]) for e in read_events(paths)]
        return found


@pytest.fixture(scope="module")
def shown(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    from mlflow import MlflowClient

    storage = tmp_path_factory.mktemp("ui")
    write_sweep(storage, NAME, CELLS)
    write_tables(summarise(str(storage), NAME))
    write_report([(str(storage), NAME)])
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    sync_sweep(str(storage), NAME, server.uri, over=True)
    experiment = MlflowClient(server.uri).get_experiment_by_name(NAME)
    assert experiment is not None
    page = browser.new_page(viewport={"width": 1600, "height": 1100})
    page.set_default_timeout(60_000)
    # Its panel of a chat assistant opens by itself the first time and covers the columns.
    page.add_init_script(
        "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
    )
    yield Shown(storage, server.uri, str(experiment.experiment_id), page)
    page.close()
    server.kill()


def names(page: Page) -> list[str]:
    """Names of the runs in the list, from top to bottom."""
    found = page.locator(".ag-row").evaluate_all(
        "rows => rows.map(r => [Number(r.getAttribute('row-index')), r.querySelector('a[href*=runs]')?.innerText])"
    )
    return [name for _, name in sorted(row for row in found if row[1])]


def matching(page: Page, count: int) -> None:
    page.get_by_text(f"{count} matching run").wait_for()
    page.locator(".ag-row a[href*=runs]").first.wait_for()


def test_trials_stand_under_their_sweep(shown: Shown) -> None:
    page = shown.page
    shown.open(shown.runs())
    matching(page, 6)
    assert names(page) == [NAME]
    page.locator(".ag-row [role=button], .ag-row button").first.click()
    page.get_by_role("link", name="kl-125m-s0-a0.0-b1.0").wait_for()
    assert set(names(page)) == {NAME} | NAMES
    # The experiment says what it is, and where its views are.
    page.get_by_text("Each sweep is a run").wait_for()


@pytest.mark.parametrize(
    ("filter", "wanted"),
    [
        ("tags.method = 'icu' and metrics.`after/ma` < 0.6", {"icu-125m-s0-a0.5-b1.0", "icu-125m-s1-a0.5-b1.0"}),
        ("tags.status = 'not_forgotten'", {"icu-125m-s0-a0.5-b2.0"}),
    ],
)
def test_the_search_that_the_description_tells(shown: Shown, filter: str, wanted: set[str]) -> None:
    from mlflow import MlflowClient

    note = MlflowClient(shown.uri).get_experiment(shown.experiment).tags[NOTE_TAG]
    assert filter in note.splitlines()
    page = shown.page
    shown.open(f"{shown.runs()}&orderByKey=tags.`mlflow.runName`&orderByAsc=true")
    matching(page, 6)
    page.get_by_role("combobox").first.fill(filter)
    page.keyboard.press("Enter")
    matching(page, len(wanted))
    assert set(names(page)) == wanted


def test_the_view_of_trials(shown: Shown) -> None:
    page = shown.page
    shown.open(shown.runs())
    page.get_by_role("button", name="Views").click()
    page.get_by_test_id("saved-views-item-icu-ray-trials").get_by_text("Trials").click()
    matching(page, 5)
    page.get_by_text("ppl_heldout_r").first.wait_for()
    assert names(page)[0] == "icu-125m-s0-a0.5-b2.0"  # least damage first
    assert names(page)[-1] == "ascent-125m-s0-a0.0-b0.0"
    headings = page.locator(".ag-header-cell").all_inner_texts()
    assert {"method", "alpha", "after/ma", "epochs"} <= {heading.strip() for heading in headings}


def test_curves_have_the_points_of_the_trials(shown: Shown) -> None:
    page = shown.page
    asked: list[tuple[str, dict[str, Any]]] = []

    def keep(response: Any) -> None:
        if "get-history-bulk-interval" in response.url:
            asked.append((response.url, response.json()))

    page.on("response", keep)
    shown.open(f"{shown.runs()}&viewStateShareKey=icu-ray-curves&compareRunsMode=CHART")
    page.get_by_text("By epoch").first.wait_for()
    page.wait_for_function(
        "count => [...document.querySelectorAll('.js-plotly-plot')].filter(p => p.data?.length >= count).length >= 2",
        arg=len(CELLS),
    )
    page.remove_listener("response", keep)
    # What the page draws.
    lines = page.evaluate(
        """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(p => p.data).filter(line => line.metricKey)
             .map(l => [l.metricKey, l.name, l.marker.color, Array.from(l.x, (x, i) => [x, l.y[i]])])"""
    )
    drawn: dict[str, dict[str, list[Any]]] = {}
    colours: dict[str, set[str]] = {}
    for metric, name, colour, points in lines:
        colours.setdefault(name, set()).add(colour[: len("#rrggbb")])  # a transparent copy lies under each line
        drawn.setdefault(metric, {})[name] = [(int(x), y) for x, y in points]
    for metric in ("ma", "el10"):
        assert set(drawn[metric]) == NAMES
        assert drawn[metric] == shown.histories(metric)
    # A colour for each trial: the same in all charts, no other's.
    assert all(len(own) == 1 for own in colours.values()), colours
    assert len(set().union(*colours.values())) == len(NAMES), colours
    # And what it asked the server for.
    by_metric = {parse_qs(urlsplit(url).query)["metric_key"][0]: answer for url, answer in asked}
    points = sorted((m["step"], m["value"]) for m in by_metric["ma"]["metrics"])
    assert points == sorted(point for line in shown.histories("ma").values() for point in line)


def test_chosen_trials_are_compared(shown: Shown) -> None:
    page = shown.page
    shown.open(f"{shown.runs()}&viewStateShareKey=icu-ray-trials")
    matching(page, 5)
    for place in (0, 1):
        page.locator(f".ag-row[row-index='{place}'] input[type=checkbox]").first.check(force=True)
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for()
    table = page.locator("body").inner_text()
    assert "icu-125m-s0-a0.5-b2.0" in table and "kl-125m-s0-a0.0-b1.0" in table
    values = table[table.index("\nMetrics\n") :].splitlines()
    assert "after/ma" in values and {"0.7", "0.58"} <= set(values)


def test_the_sweeps_run_leads_to_its_report(shown: Shown) -> None:
    from mlflow import MlflowClient

    page = shown.page
    client = MlflowClient(shown.uri)
    [parent] = client.search_runs([shown.experiment], f"attributes.run_name = '{NAME}'")
    shown.open(f"/runs/{parent.info.run_id}")
    page.get_by_text("5 trials, each a child run").wait_for()
    page.get_by_text("Show more").click()
    table = page.get_by_test_id("note-view-outer-container").locator("table")
    rows = [row.strip().split("\t") for row in table.inner_text().splitlines()]
    assert ["125m", "icu", "0.5", "1", "57.0", "3.5", "1.23", "2/2"] in [[cell.strip() for cell in row] for row in rows]
    address = page.get_by_role("link", name="Report", exact=True).get_attribute("href")
    page.goto("about:blank")
    page.goto(f"{shown.uri}/{address}")
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name=NAME, exact=True).first.wait_for()
    assert report.locator("figure img").first.evaluate("e => e.complete && e.naturalWidth > 100")


def test_a_description_that_someone_took_over_stays(shown: Shown) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(shown.uri)
    [parent] = client.search_runs([shown.experiment], f"attributes.run_name = '{NAME}'")
    client.set_tag(parent.info.run_id, NOTE_TAG, "mine")
    client.set_experiment_tag(shown.experiment, NOTE_TAG, "ours")
    sync_sweep(str(shown.storage), NAME, shown.uri, over=True)
    assert client.get_run(parent.info.run_id).data.tags[NOTE_TAG] == "mine"
    assert client.get_experiment(shown.experiment).tags[NOTE_TAG] == "ours"
