"""The files in cluster/: read by Ray's own code and against published schemas, without a cloud and without a cluster.

Launcher files go through Ray's schema; what Ray's autoscaler would start for trials of 1, 3 and 6 GPUs is asked of its
own scheduler, for the launchers and, through Ray's own reader of RayClusters, for Kubernetes. The manifests are
checked against KubeRay's CRDs where ICU_RAY_CRDS names a folder with ray.io_rayclusters.yaml and ray.io_rayjobs.yaml
(helm-chart/kuberay-operator/crds of a KubeRay release), and against Kubernetes' schemas where the package
kubernetes-validate is installed.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parent.parent / "cluster"
LAUNCHERS = ("aws.yaml", "gcp.yaml")
MANIFESTS = tuple(sorted(path.name for path in (CLUSTER / "kuberay").glob("*.yaml")))
OURS = {"ray_icu_trials", "ray_icu_epochs_total", "ray_icu_samples_left", "ray_icu_tokens_per_second"}
# What Ray finds out by itself about an AWS machine and adds to the resources that the file leaves out.
DETECTED = {"memory": 22 * 2**30, "accelerator_type:A10G": 1}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "kuberay" / name).read_text()))


def all_documents() -> list[dict[str, Any]]:
    return [document for name in MANIFESTS for document in documents(name)]


def nodes_of(tree: Any) -> Iterator[Any]:
    """Every value in a tree of mappings and lists."""
    yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from nodes_of(child)


def containers(tree: Any) -> Iterator[dict[str, Any]]:
    for node in nodes_of(tree):
        if isinstance(node, dict):
            yield from node.get("containers", [])


def pod_specs(tree: Any) -> Iterator[dict[str, Any]]:
    return (node for node in nodes_of(tree) if isinstance(node, dict) and "containers" in node)


# --- launcher files ---------------------------------------------------------------------------------------------------


def prepared(name: str) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(load(name))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_file_passes_rays_schema(name: str) -> None:
    config = prepared(name)
    # Ray's defaults for what is left out would install a nightly Ray and open the dashboard to the network.
    assert config["setup_commands"] == config["head_setup_commands"] == config["worker_setup_commands"] == []
    assert config["file_mounts"] == {}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_file_with_an_unknown_key_is_refused(name: str) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    wrong = load(name)
    wrong["available_node_types"]["gpu1-spot"]["max_worker"] = 1
    with pytest.raises(ValidationError):
        validate_config(prepare_config(wrong))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_head_is_on_demand_without_gpu_and_workers_start_from_zero(name: str) -> None:
    config = prepared(name)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"]["GPU"] == 0 and head["resources"]["CPU"] > 0
    assert head["labels"]["ray.io/market-type"] == "on-demand"
    assert "InstanceMarketOptions" not in head["node_config"] and "scheduling" not in head["node_config"]
    assert config["idle_timeout_minutes"] <= 10
    assert config["max_workers"] == sum(each["max_workers"] for each in types.values())
    for node_type in types.values():
        assert node_type["min_workers"] == 0 < node_type["max_workers"]
        spot = node_type["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot" or (
            node_type["node_config"].get("scheduling", {}).get("provisioningModel") == "SPOT"
        )
        assert node_type["labels"]["ray.io/market-type"] == ("spot" if spot else "on-demand")
        assert (node_type["priority"] > 0) == spot


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launched_cluster_asks_for_a_token_and_listens_on_loopback(name: str) -> None:
    config = load(name)
    options = " ".join(config["docker"]["run_options"])
    assert "RAY_AUTH_MODE=token" in options and "RAY_AUTH_TOKEN_PATH=/etc/icu_ray/auth_token" in options
    assert "RAY_AUTH_TOKEN=" not in options
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start and "0.0.0.0" not in start
    commands = [config["initialization_commands"]] + [
        node_type["initialization_commands"]
        for node_type in config["available_node_types"].values()
        if "initialization_commands" in node_type
    ]
    for each in commands:  # a command list of a node type replaces the common one
        assert any("/etc/icu_ray/auth_token" in command and "secret" in command for command in each)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_workers_watch_for_spot_notices(name: str) -> None:
    last = load(name)["worker_start_ray_commands"][-1]
    assert "python -m icu_ray.spot_notice" in last and last.rstrip().endswith("&")
    # pkill -x -f must match what is started, and not the shell whose own command line names it too.
    pattern = re.search(r'pkill -xf "([^"]+)"', last)
    assert pattern is not None and f"nohup {pattern[1]} >" in last


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_commands_are_shell(name: str) -> None:
    config = load(name)
    for commands in [config[key] for key in config if key.endswith("_commands")] + [
        node_type.get("initialization_commands", []) for node_type in config["available_node_types"].values()
    ]:
        for command in commands:
            subprocess.run(["bash", "-n", "-c", command], check=True)


# --- what Ray's scheduler would start ---------------------------------------------------------------------------------


def kuberay_config(cluster: dict[str, Any]) -> dict[str, Any]:
    """Ray's own reading of a RayCluster, as its autoscaler in the head pod makes it."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    return _derive_autoscaling_config_from_ray_cr(copy.deepcopy(cluster))


def scaling_config(name: str) -> dict[str, Any]:
    if name not in LAUNCHERS:
        return kuberay_config(documents(name)[0])
    config = prepared(name)
    if name == "aws.yaml":
        for node_type in config["available_node_types"].values():
            node_type["resources"] = {**DETECTED, **node_type["resources"]}
    return config


def launched(
    name: str, gangs: list[int], one_node: bool, failed: tuple[str, ...] = (), all_fit: bool = True
) -> Counter[str]:
    """Node types that Ray starts for gangs of so many workers with one CPU and one GPU.

    one_node: the placement group is STRICT_PACK (Ray then asks for all its bundles on one node), else PACK.
    failed: node types whose last launch has just failed. all_fit: whether the limits have room for all of them.
    """
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest

    config = AutoscalingConfig(scaling_config(name), skip_content_hash=True)
    affinity = ResourceRequestUtil.PlacementConstraintType.AFFINITY
    requests = []
    for number, workers in enumerate(gangs):
        constraints = [(affinity, "_PG_", str(number))] if one_node else None
        bundle = ResourceRequestUtil.make({"CPU": 1, "GPU": 1}, constraints)
        requests.append(GangResourceRequest(requests=[bundle] * workers))
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_worker_nodes(),  # no head here that would count
            gang_resource_requests=requests,
            recoverable_resource_availabilities=dict.fromkeys(failed, 0.0),
        )
    )
    assert (not reply.infeasible_gang_resource_requests) == all_fit
    return Counter({each.instance_type: each.count for each in reply.to_launch})


SCALED = (*LAUNCHERS, "raycluster.yaml")


@pytest.mark.parametrize("one_node", [True, False], ids=["STRICT_PACK", "PACK"])
@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize(
    ("gangs", "expected"),
    [
        ([1], {"gpu1-spot": 1}),
        ([1, 1], {"gpu1-spot": 2}),
        ([3], {"gpu8-spot": 1}),
        ([6], {"gpu8-spot": 1}),
        ([6, 6], {"gpu8-spot": 2}),
        ([3, 3, 1, 1], {"gpu8-spot": 1}),
    ],
)
def test_ray_starts_the_right_nodes_for_trials(
    name: str, gangs: list[int], expected: dict[str, int], one_node: bool
) -> None:
    assert launched(name, gangs, one_node) == expected


@pytest.mark.parametrize("name", SCALED)
def test_on_demand_takes_over_where_spot_cannot_be_had(name: str) -> None:
    assert launched(name, [1], one_node=True, failed=("gpu1-spot",)) == {"gpu1-on-demand": 1}
    assert launched(name, [6], one_node=True, failed=("gpu8-spot",)) == {"gpu8-on-demand": 1}


@pytest.mark.parametrize("name", SCALED)
def test_never_more_nodes_than_the_file_allows(name: str) -> None:
    config = scaling_config(name)
    started = launched(name, [1] * 200, one_node=True, all_fit=False)
    assert 0 < sum(started.values()) <= config["max_workers"]
    for node_type, count in started.items():
        assert count <= config["available_node_types"][node_type]["max_workers"]


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def test_manifests_are_the_expected_kinds() -> None:
    kinds = Counter((document["apiVersion"], document["kind"]) for document in all_documents())
    assert kinds[("ray.io/v1", "RayCluster")] == kinds[("ray.io/v1", "RayJob")] == 1
    assert kinds[("apps/v1", "StatefulSet")] == kinds[("apps/v1", "Deployment")] == 1
    assert all(document["metadata"]["namespace"] == "icu-ray" for document in all_documents())
    assert not any(kind == "Secret" for _, kind in kinds), "secrets are made by hand, never in a file"


def test_job_runs_on_the_cluster_of_the_other_file() -> None:
    cluster, job = documents("raycluster.yaml")[0], documents("rayjob.yaml")[0]
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert job["spec"]["shutdownAfterJobFinishes"] is True and job["spec"]["activeDeadlineSeconds"] > 0
    # KubeRay hands the entrypoint to a shell in the submitting pod: an operator outside quotes would act there.
    words = shlex.split(job["spec"]["entrypoint"])
    assert not {"&&", "||", "|", ";", "&"} & set(words)
    assert "python -m icu_ray.sweep table1 storage=s3://" in words[-1]


def test_cluster_is_scaled_by_autoscaler_v2_from_zero_with_a_token() -> None:
    import ray

    spec = documents("raycluster.yaml")[0]["spec"]
    assert spec["rayVersion"] == ray.__version__
    assert spec["enableInTreeAutoscaling"] is True and spec["autoscalerOptions"]["version"] == "v2"
    assert spec["authOptions"]["mode"] == "token" and spec["authOptions"]["secretName"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert group["resources"]["GPU"] == limits["nvidia.com/gpu"]
        assert int(group["resources"]["CPU"]) <= int(limits["cpu"])
    types = kuberay_config(documents("raycluster.yaml")[0])["available_node_types"]
    assert types["headgroup"]["resources"]["GPU"] == 0 and types["headgroup"]["resources"]["CPU"] > 0


def test_every_container_is_bounded_unprivileged_and_pinned() -> None:
    found = list(containers(all_documents()))
    assert len(found) == 2 * 5 + 1 + 2  # head and four groups, in cluster and job; submitter; postgres and mlflow
    for container in found:
        assert set(container["resources"]["limits"]) >= {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        tag = container["image"].rpartition(":")[2]
        assert re.fullmatch(r"\d+\.\d+(\.\d+)?(-[\w.]+)?", tag), container["image"]
    for pod in pod_specs(all_documents()):
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


def test_nothing_is_reachable_from_outside_and_no_secret_is_written_down() -> None:
    for document in all_documents():
        assert document["kind"] != "Ingress"
        for node in nodes_of(document):
            if isinstance(node, dict):
                assert node.get("type") not in ("LoadBalancer", "NodePort")
                assert node.get("serviceType", "ClusterIP") == "ClusterIP"
                if "value" in node and "name" in node:
                    secret = re.search(r"(?i)(password|token|secret|access_key)(?!_FILE)", str(node["name"]))
                    assert secret is None, f"{node['name']} must come from a Secret"
    selected = [d["spec"]["podSelector"] for d in documents("network-policy.yaml")]
    assert {} in selected, "without a policy for all pods, pods without a policy take anything"


def published(kind: str) -> dict[str, Any]:
    """The CRD's schema, refusing keys it does not list, as `kubectl` does."""
    folder = os.environ.get("ICU_RAY_CRDS")
    if not folder:
        pytest.skip("ICU_RAY_CRDS names no folder with KubeRay's CRDs")
    crd = yaml.load((Path(folder) / f"ray.io_{kind}.yaml").read_text(), Loader=yaml.CSafeLoader)
    schema = next(v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema["properties"]["metadata"] = {"type": "object"}
    for node in nodes_of(schema):
        if isinstance(node, dict) and node.get("type") == "object" and isinstance(node.get("properties"), dict):
            node.setdefault("additionalProperties", bool(node.get("x-kubernetes-preserve-unknown-fields")))
    return schema


@pytest.mark.parametrize(("name", "kind"), [("raycluster.yaml", "rayclusters"), ("rayjob.yaml", "rayjobs")])
def test_manifest_passes_the_published_crd(name: str, kind: str) -> None:
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(published(kind))
    manifest = documents(name)[0]
    assert [error.message for error in validator.iter_errors(manifest)] == []
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    spec["workerGroupSpecs"][0]["maxReplica"] = 1  # the check can fail
    assert not validator.is_valid(manifest)


@pytest.mark.parametrize("name", ["mlflow.yaml", "network-policy.yaml"])
def test_manifest_passes_kubernetes_own_schema(name: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for document in documents(name):
        kubernetes_validate.validate(document, "1.33", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError, match="specs"):
        kubernetes_validate.validate(documents(name)[0] | {"specs": {}}, "1.33", strict=True)


# --- image, prices, metrics -------------------------------------------------------------------------------------------


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
    config = pytest.importorskip("icu_ray.config")
    if not hasattr(config, "PricesConfig"):
        pytest.skip("icu_ray.config has no PricesConfig")
    prices = config.PricesConfig.model_validate(load("prices.example.yaml"))
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
