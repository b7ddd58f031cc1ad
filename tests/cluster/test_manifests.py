"""The manifests in cluster/kuberay/: what each promises, and published schemas.

KubeRay's CRDs are used where ICU_RAY_CRDS names a folder with ray.io_rayclusters.yaml and ray.io_rayjobs.yaml
(helm-chart/kuberay-operator/crds of a KubeRay release), Kubernetes' schemas where the package kubernetes-validate is
installed.

Needs: nothing; some of its tests skip without KubeRay's CRDs or kubernetes-validate.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster_case import all_documents, containers, documents, kuberay_config, nodes_of, pod_specs


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
