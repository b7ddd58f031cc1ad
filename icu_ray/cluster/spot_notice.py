"""Watches for a cloud's notice that this spot machine will be taken away, and drains its Ray node.

    python -m icu_ray.cluster.spot_notice &          # on every spot worker, after `ray start`

AWS says so two minutes ahead (instance metadata, IMDSv2), GCP thirty seconds. A drained node gets no new work, and Ray
Train moves a worker group off it without spending its retries. Open-source Ray has no such watcher for virtual
machines; KubeRay drains by itself. What is done is what `ray drain-node` does, without the seconds that a command
takes to start. Importing this module does not import Ray.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from icu_ray.cluster.authentication import authenticate

METADATA = "http://169.254.169.254"
"""AWS and GCP both answer here; by GCP's name (metadata.google.internal) every look on AWS would wait for DNS."""
AWS_SECONDS, GCP_SECONDS = 120, 30
_TIMEOUT = 2.0
log = logging.getLogger("icu_ray.cluster.spot_notice")


@dataclass(frozen=True)
class Notice:
    """The machine goes in `seconds`."""

    cloud: str
    seconds: int


def aws_notice(base: str) -> Notice | None:
    """AWS's spot instance action, None while there is none; OSError where no AWS metadata answers."""
    token = _ask(f"{base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "300"}, "PUT")
    if token is None:
        raise OSError("no IMDSv2 token")
    answer = _ask(f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    if answer is None:
        return None
    try:
        when = datetime.fromisoformat(str(json.loads(answer)["time"]))
        left = int((when - datetime.now(UTC)).total_seconds())
    except (ValueError, KeyError, TypeError):
        left = AWS_SECONDS  # a notice in words we do not know is a notice all the same
    return Notice("AWS", max(1, min(left, AWS_SECONDS)))


def gcp_notice(base: str) -> Notice | None:
    """GCP's preemption flag, None while it is down; OSError where no GCP metadata answers."""
    answer = _ask(f"{base}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    if answer is None:
        raise OSError("no such metadata")
    return Notice("GCP", GCP_SECONDS) if answer.strip().upper() == "TRUE" else None


def _ask(url: str, headers: Mapping[str, str], method: str = "GET") -> str | None:
    """The answer's text, None for 404; OSError for anything else that is no answer."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    # No proxy: the address is of this machine's own hypervisor, and a proxy would see the token.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT) as answer:
            return str(answer.read(4096).decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    except (http.client.HTTPException, ValueError) as error:  # no HTTP, or a token that is none
        raise OSError(f"{url}: {error}") from error


def wait_for_notice(sources: Sequence[Callable[[], Notice | None]], every: float) -> Notice:
    """The first notice. A source that does not answer is asked again: metadata servers have their moments."""
    silent = 0
    while True:
        answered = False
        for source in sources:
            try:
                notice = source()
            except OSError:
                continue
            answered = True
            if notice is not None:
                return notice
        silent = 0 if answered else silent + 1
        if silent in (3, 300):
            log.warning("no cloud metadata answers here; is this a spot machine of AWS or GCP?")
        time.sleep(every)


def this_node(address: str) -> tuple[str, str]:
    """Address of the cluster's GCS, and the hex id of the Ray node that runs on this machine."""
    authenticate()
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="icu_ray_spot")
    try:
        context = ray.get_runtime_context()
        return str(context.gcs_address), str(context.get_node_id())
    finally:
        ray.shutdown()


def drain(address: str, node: str, notice: Notice) -> None:
    """Tell Ray, at the address of its GCS, that the node goes; RuntimeError when it refuses or does not answer."""
    authenticate()
    import ray
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    deadline = time.time_ns() // 10**6 + 1000 * notice.seconds
    preemption = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    try:
        client = ray._raylet.GcsClient(address=address)
        accepted, why = client.drain_node(node, preemption, f"{notice.cloud} spot notice", deadline)
    except ray.exceptions.RpcError as error:
        raise RuntimeError(f"Ray at {address} does not answer: {error}") from error
    if not accepted:
        raise RuntimeError(f"Ray does not drain node {node}: {why}")


def main(argv: Sequence[str] | None = None) -> int:
    """Watch until there is a notice, drain, and end."""
    parser = argparse.ArgumentParser(
        prog="python -m icu_ray.cluster.spot_notice",
        description="Drain this machine's Ray node when the cloud says that it will be taken away.",
        epilog="example:\n  python -m icu_ray.cluster.spot_notice --address 10.0.0.4:6379",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--address", default="auto", help="of the Ray cluster (default: the one of this machine)")
    parser.add_argument("--node-id", metavar="HEX", help="the node to drain (default: this machine's)")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between two looks (default 5)")
    parser.add_argument("--metadata", default=METADATA, metavar="URL", help=f"the cloud's server (default {METADATA})")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    # Asked now, while there is time: connecting takes seconds, of which GCP leaves few.
    address, here = this_node(arguments.address)
    node = arguments.node_id or here
    log.info("watching for a spot notice to node %s", node)
    base = arguments.metadata.rstrip("/")
    notice = wait_for_notice([lambda: aws_notice(base), lambda: gcp_notice(base)], arguments.every)
    log.info("%s takes this machine in %d s: draining node %s", notice.cloud, notice.seconds, node)
    try:
        drain(address, node, notice)
    except RuntimeError as error:
        log.error("%s", error)
        return 1
    log.info("drained")
    return 0


if __name__ == "__main__":
    sys.exit(main())
