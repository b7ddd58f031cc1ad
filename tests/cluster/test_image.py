"""The other files in cluster/: the image, example prices, what operators look at, and the README.

Needs: nothing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from icu_ray.config import PricesConfig
from tests.support.cluster_case import CLUSTER, load

OURS = {"ray_icu_trials", "ray_icu_epochs_total", "ray_icu_samples_left", "ray_icu_tokens_per_second"}


def test_image_is_pinned_and_not_root() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert bases and all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases)
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 1000:1000"
    for lock in ("requirements.lock", "cluster/requirements.lock"):
        assert any(lock in line for line in lines if line.startswith("COPY "))
    ours = pins(CLUSTER / "requirements.lock")
    common = pins(CLUSTER.parent / "requirements.lock")
    assert ours and not set(ours) & set(common), "a package in both locks could be asked for in two versions"
    assert {"boto3", "s3fs", "gcsfs", "google-api-python-client", "psycopg-binary", "flask-wtf"} <= set(ours)
    assert ours["s3fs"] == common["fsspec"], "s3fs takes only the fsspec of its own release"


def pins(path: Path) -> dict[str, str]:
    """Packages and exact versions of a lock file; anything else in it fails."""
    found = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9._+!]+)", line).groups()  # type: ignore[union-attr]
            found[name.lower().replace("_", "-")] = version
    return found


def test_build_context_is_closed() -> None:
    lines = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "everything stays out unless named"
    copied = re.findall(r"^COPY (.+) \S+$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    assert {f"!{source}" for line in copied for source in line.split()} == {r for r in rules if r.startswith("!")}


def test_example_prices_load() -> None:
    prices = PricesConfig.model_validate(load("prices.example.yaml"))
    assert prices.spot_gpu_hour < prices.gpu_hour and prices.spot_cpu_hour < prices.cpu_hour


def test_dashboard_shows_only_metrics_that_exist() -> None:
    from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels

    dashboard = json.loads((CLUSTER / "grafana-dashboard.json").read_text())
    known = set(re.findall(r"\b(?:ray|autoscaler)_\w+", Path(default_dashboard_panels.__file__).read_text()))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = set(re.findall(r"\b(?:ray|autoscaler)_\w+", " ".join(expressions)))
    assert used - known == OURS, "ours are all shown, and what is not ours is on Ray's own dashboard too"
    assert {"ray_node_gpus_utilization", "ray_node_gram_used"} <= used
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert "ray_node_cpu_utilization" in dashboard["templating"]["list"][1]["query"]


def test_prometheus_scrapes_what_ray_writes() -> None:
    from ray.dashboard.modules.metrics.templates import PROMETHEUS_YML_TEMPLATE

    rays = yaml.safe_load(PROMETHEUS_YML_TEMPLATE.format(prom_metrics_service_discovery_file_path="FILE"))
    ours = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())
    rays["scrape_configs"][0]["file_sd_configs"][0]["files"] = ["/tmp/ray/prom_metrics_service_discovery.json"]
    assert ours["scrape_configs"] == rays["scrape_configs"]


def test_readme_tells_of_every_file() -> None:
    readme = (CLUSTER / "README.md").read_text()
    for path in CLUSTER.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert f"`{path.relative_to(CLUSTER)}`" in readme, path.name
