"""What a sweep may use of a cluster, what that costs, and where its runs are shown."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from icu_ray.config.section import Count, Name, Place, Positive, Section


class TrackingConfig(Section):
    """MLflow; the server's address comes from MLFLOW_TRACKING_URI when that is set."""

    enabled: bool = True
    """Whether runs are sent to MLflow."""
    uri: str | None = None
    """Address of the server, or sqlite:///FILE; default: a database next to the results."""
    experiment: str | None = None
    """Name of the MLflow experiment; default: the sweep's name."""


class NodeTypeConfig(Section):
    """A kind of node that the cluster's autoscaler may add: what one holds, and how many there may be."""

    name: Name
    """What messages call it."""
    cpus: Annotated[float, Field(ge=0)]
    """CPU cores of a node."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of a node."""
    most: Count
    """How many there may be at the same time."""


class ResourcesConfig(Section):
    """What the sweep may use of the cluster; no part of any trial's identity."""

    max_workers: Count | None = None
    """Training workers of all running trials together; default: what the cluster has."""
    max_concurrent: Count | None = None
    """Trials that run at the same time; default: as many as fit."""
    node_types: tuple[NodeTypeConfig, ...] = ()
    """What an autoscaler may add, where Ray itself does not report it (Ray 2.60 never does): without it a trial that
    does not fit the nodes that are up is refused."""
    gpu_memory: Positive | None = None
    """Memory of one GPU in GB: the plan then says which models do not fit, and with which settings they would."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Times a trial is continued from its checkpoint after a failure of a worker or node."""
    epoch_minutes: Positive | None = None
    """A trial in which no epoch ends for this long is taken to hang: its workers are replaced, at most `retries`
    times."""
    keep_models: bool = True
    """Whether unlearned models are kept after their trial and evaluation."""
    max_hours: Positive | None = None
    """GPU hours (hours of CPU cores in a sweep without GPUs), ended and running trials together, after which no
    further trial starts."""
    max_cost: Positive | None = None
    """Money after which no further trial starts; needs `prices`."""
    prices: Place | None = None
    """YAML file with what an hour costs (keys: see PricesConfig), for the plan's estimate and max_cost."""
    spot: bool = False
    """Whether max_cost counts spot prices."""

    @model_validator(mode="after")
    def _priced(self) -> ResourcesConfig:
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs 'prices', a file that says what an hour costs")
        return self


class PricesConfig(Section):
    """A price file: what an hour of one GPU (with its share of the machine) costs, and of one CPU core without one."""

    currency: str = "USD"
    """Shown next to sums."""
    gpu_hour: Annotated[float, Field(ge=0)]
    """Price of an hour of one GPU, on demand."""
    spot_gpu_hour: Annotated[float, Field(ge=0)] | None = None
    """The same on a spot machine."""
    cpu_hour: Annotated[float, Field(ge=0)] | None = None
    """Price of an hour of one CPU core, in a sweep without GPUs."""
    spot_cpu_hour: Annotated[float, Field(ge=0)] | None = None
    """The same on a spot machine."""
