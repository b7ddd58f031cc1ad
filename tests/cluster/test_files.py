"""The launcher files in cluster/: Ray's schema, and which nodes its own scheduler starts for trials of 1, 3 and 6 GPUs.

The scheduler is asked for the manifests too, through Ray's own reader of RayClusters.

Needs: nothing.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster_case import LAUNCHERS, documents, kuberay_config, load, prepared

ROOT = Path(__file__).parents[2]
# What Ray finds out by itself about an AWS machine and adds to the resources that the file leaves out.
DETECTED = {"memory": 22 * 2**30, "accelerator_type:A10G": 1}


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
    assert "python -m icu_ray.cluster.spot_notice" in last and last.rstrip().endswith("&")
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


def scaling_config(name: str) -> dict[str, Any]:
    if name not in LAUNCHERS:
        return kuberay_config(documents(name)[0])
    config = prepared(name)
    if name == "aws.yaml":
        for node_type in config["available_node_types"].values():
            node_type["resources"] = {**DETECTED, **node_type["resources"]}
    return config


def launched(
    name: str, groups: list[int], one_node: bool, failed: tuple[str, ...] = (), all_fit: bool = True
) -> Counter[str]:
    """Node types that Ray starts for groups of so many workers with one CPU and one GPU.

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
    for number, workers in enumerate(groups):
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
    ("groups", "expected"),
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
    name: str, groups: list[int], expected: dict[str, int], one_node: bool
) -> None:
    assert launched(name, groups, one_node) == expected


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


def test_mlflow_and_prometheus_listen_on_loopback_or_ask_for_a_password() -> None:
    """The one server that other machines reach is MLflow's in Kubernetes: a Service of the cluster, with passwords."""
    (server,) = (d for d in documents("mlflow.yaml") if d["kind"] == "Deployment" and d["metadata"]["name"] == "mlflow")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    assert "--host=0.0.0.0" in container["command"] and "--app-name=basic-auth" in container["command"]
    assert any(part.startswith("--allowed-hosts=") and "*" not in part for part in container["command"])
    (settings,) = (d["data"]["auth.ini"] for d in documents("mlflow.yaml") if d["metadata"]["name"] == "mlflow-auth")
    assert "default_permission = NO_PERMISSIONS" in settings and "password" not in settings
    found = {each["name"]: each for each in container["env"]}
    assert "secretKeyRef" in found["MLFLOW_AUTH_ADMIN_PASSWORD"]["valueFrom"]
    for path in sorted((ROOT / "cluster").rglob("*")):
        if path.suffix not in (".md", ".yaml", ".yml") or path.name == "mlflow.yaml":
            continue
        text = path.read_text()
        assert "0.0.0.0:" not in text and "--host 0.0.0.0" not in text and "--host=0.0.0.0" not in text, path
        for start in re.finditer(r"mlflow server(?:\s|\\)+([^`]*?)(?:\n```|$)", text):
            assert "--host 127.0.0.1" in start[1], path
        if "prom/prometheus" in text:
            assert "--web.listen-address=127.0.0.1:9090" in text


def test_dependencies_are_audited_by_pinned_tools() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    commands = [step["run"] for step in workflow["jobs"]["audit"]["steps"] if "run" in step]
    (audit,) = (command for command in commands if command.startswith("pip-audit"))
    # Without --strict a package that could not be looked up counts as sound.
    assert {"--strict", "requirements.lock", "cluster/requirements.lock"} <= set(audit.split())
    assert re.search(r"pip-audit==[\d.]+$", commands[0])
    for name in ("requirements.lock", "cluster/requirements.lock"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
