"""The keys of a sweep's YAML, each with its default and bounds, as frozen values.

    config = load_config(find_config("table1"), ["optim.lr=1e-5"])      # file.py, shipped.py

`sweep.py` is a whole config: read it first, then the sections it names, in the order of a text's way: `data.py`
(`benchmarks.py`: the field's, which stand for files), `models.py` (`adapters.py`), `methods.py`, `training.py`,
`measuring.py`, `auditing.py`, `cluster.py`; `section.py` is what they have in common. A sentence under a key is its
documentation (docs/reference/config.md is made of them). `recipes.py` has values that other papers train with.
`file.py` reads YAML with its `base:` and overrides, `refusals.py` says what is wrong with it, `shipped.py` finds those
of tune_configs/, `starter.py` writes one to start from, and `keys.py` says of every key what it means. No Ray, no
torch, no file of data.
"""

from __future__ import annotations

from icu_ray.config.adapters import LoraConfig
from icu_ray.config.benchmarks import Data, MuseData, RwkuData, TofuData, WmdpData
from icu_ray.config.cluster import NodeTypeConfig, PricesConfig, ResourcesConfig, TrackingConfig
from icu_ray.config.data import (
    QUESTION_ANSWER,
    Columns,
    ColumnsConfig,
    ExtractionData,
    RecordsData,
    RowForm,
    RowsConfig,
    SyntheticData,
    Template,
)
from icu_ray.config.measuring import (
    ConventionsConfig,
    ElConfig,
    EvalConfig,
    EvaluationConfig,
    FilterConfig,
    GenerateConfig,
    JudgeConfig,
    StopConfig,
)
from icu_ray.config.methods import MethodConfig, MethodStop, RangeConfig, SearchConfig, StepConfig
from icu_ray.config.models import ModelConfig, ModelTrainingConfig, StandinConfig
from icu_ray.config.section import Count, Fraction, Momentum, Name, Place, Positive, Section, Seed, Setting, Weight
from icu_ray.config.sweep import SweepConfig
from icu_ray.config.training import (
    AnswersConfig,
    KlConfig,
    LossConfig,
    OptimConfig,
    PairsConfig,
    TokensConfig,
    TrainConfig,
)

__all__ = [
    "AnswersConfig",
    "QUESTION_ANSWER",
    "Columns",
    "ColumnsConfig",
    "ConventionsConfig",
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
    "LoraConfig",
    "LossConfig",
    "MethodConfig",
    "MethodStop",
    "ModelConfig",
    "ModelTrainingConfig",
    "Momentum",
    "MuseData",
    "Name",
    "NodeTypeConfig",
    "OptimConfig",
    "PairsConfig",
    "Place",
    "Positive",
    "PricesConfig",
    "RangeConfig",
    "RecordsData",
    "ResourcesConfig",
    "RowForm",
    "RowsConfig",
    "RwkuData",
    "SearchConfig",
    "Section",
    "Seed",
    "Setting",
    "StandinConfig",
    "StepConfig",
    "StopConfig",
    "SweepConfig",
    "SyntheticData",
    "Template",
    "TofuData",
    "TokensConfig",
    "TrackingConfig",
    "TrainConfig",
    "Weight",
    "WmdpData",
]
