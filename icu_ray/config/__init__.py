"""The schema of a sweep's YAML: every key, its default and its bounds, as frozen values.

Files are read by icu_ray/config/file.py. Nothing here imports Ray or torch, so a plan is printed in a second.
"""

from __future__ import annotations

from icu_ray.config.cluster import NodeTypeConfig, PricesConfig, ResourcesConfig, TrackingConfig
from icu_ray.config.data import Columns, ColumnsConfig, Data, ExtractionData, RecordsData, SyntheticData
from icu_ray.config.measuring import (
    ElConfig,
    EvalConfig,
    EvaluationConfig,
    FilterConfig,
    GenerateConfig,
    JudgeConfig,
    StopConfig,
)
from icu_ray.config.methods import MethodConfig, MethodStop, RangeConfig, SearchConfig
from icu_ray.config.models import ModelConfig, StandinConfig
from icu_ray.config.section import Count, Fraction, Momentum, Name, Positive, Section, Seed, Setting, Weight
from icu_ray.config.sweep import SweepConfig
from icu_ray.config.training import KlConfig, LossConfig, OptimConfig, PairsConfig, TokensConfig, TrainConfig

__all__ = [
    "Columns",
    "ColumnsConfig",
    "Count",
    "Data",
    "ElConfig",
    "EvalConfig",
    "EvaluationConfig",
    "ExtractionData",
    "FilterConfig",
    "Fraction",
    "GenerateConfig",
    "JudgeConfig",
    "KlConfig",
    "LossConfig",
    "MethodConfig",
    "MethodStop",
    "ModelConfig",
    "Momentum",
    "Name",
    "NodeTypeConfig",
    "OptimConfig",
    "PairsConfig",
    "Positive",
    "PricesConfig",
    "RangeConfig",
    "RecordsData",
    "ResourcesConfig",
    "SearchConfig",
    "Section",
    "Seed",
    "Setting",
    "StandinConfig",
    "StopConfig",
    "SweepConfig",
    "SyntheticData",
    "TokensConfig",
    "TrackingConfig",
    "TrainConfig",
    "Weight",
]
