"""Make the README's pictures anew from a finished sweep: MLflow's table and curves of its trials, and its report.

    python docs/screenshots.py runs/quickstart        # writes docs/images/*.png

Needs Playwright (pip install 'icu-ray[dev]') and a Chromium (apt-get install chromium). The sweep is sent to an MLflow
of its own in a temporary folder, so that the pictures show what the code of today sends; the sweep is only read.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from playwright.sync_api import Page, sync_playwright

from icu_ray.report.tracking.sync import sync_sweep

IMAGES = Path(__file__).parent / "images"
SIDEBAR = 200
"""Width of MLflow's own menu in CSS pixels, which is cut off."""


@contextmanager
def server(uri: str, log: Path) -> Iterator[str]:
    """MLflow on a free port; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--port", port, "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def mlflow_pictures(page: Page, address: str, experiment: str) -> None:
    """The two saved views that every sweep's experiment has."""
    page.add_init_script(
        "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
    )
    runs = f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=icu-ray-"
    for name, view, height in (("trials", "trials", 760), ("curves", "curves&compareRunsMode=CHART", 760)):
        page.set_viewport_size({"width": 1720, "height": height})
        page.goto("about:blank")
        page.goto(runs + view)
        page.get_by_text("matching run").wait_for()
        page.get_by_text("Exit shared view").wait_for()
        if name == "curves":
            page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .scatterlayer path').length > 20")
        page.add_style_tag(content="[role=alert] { display: none !important; }")
        page.wait_for_timeout(1500)  # lines and columns move to their places
        clip = {"x": SIDEBAR, "y": 0, "width": 1720 - SIDEBAR, "height": height}
        page.screenshot(path=IMAGES / f"mlflow-{name}.png", clip=clip)  # type: ignore[arg-type]


def main(folder: Path) -> None:
    """Send the sweep, open the pages, write the pictures."""
    IMAGES.mkdir(exist_ok=True)
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    with tempfile.TemporaryDirectory(prefix="icu_ray_screenshots_") as made, sync_playwright() as playwright:
        uri = f"sqlite:///{made}/mlflow.db"
        (Path(made) / "runs").mkdir()
        # In a folder of another name, so that neither its path nor its MLflow stand in the pictures.
        shutil.copytree(folder, Path(made) / "runs" / folder.name, ignore=shutil.ignore_patterns("model", "checkpoint"))
        sync_sweep(f"{made}/runs", folder.name, uri, over=True)
        [experiment] = [e for e in MlflowClient(uri).search_experiments() if e.name != "Default"]
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        with server(uri, Path(made) / "server.log") as address:
            mlflow_pictures(page, address, str(experiment.experiment_id))
        page.set_viewport_size({"width": 1100, "height": 800})
        page.goto((folder / "report" / "report.html").resolve().as_uri())
        page.screenshot(path=IMAGES / "report.png")
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "report" / "report.html").is_file():
        sys.exit("usage: python docs/screenshots.py runs/SWEEP    (a finished sweep, with its report)")
    main(Path(sys.argv[1]))
