"""Stand-ins of both families: built, loaded as any model, and the same again.

Needs: nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from icu_ray.config import Columns, StandinConfig
from icu_ray.data.synthetic import make_records
from icu_ray.errors import UserError
from icu_ray.models.loading import load_model
from icu_ray.training.standins import StandinProgress, build_standin

COLUMNS = Columns(48, 16, 32)
EASY = {"vocabulary": 600, "target_repeats": 8, "min_memorization": 0.6, "min_extraction": 0.0}


@pytest.mark.parametrize(("family", "architecture"), [("gpt_neo", "GPTNeoForCausalLM"), ("llama", "LlamaForCausalLM")])
def test_a_family_is_built_and_built_the_same_again(family: str, architecture: str, tmp_path: Path) -> None:
    texts = make_records(0, 0, 24, COLUMNS.length)
    config = StandinConfig.model_validate({"family": family, **EASY})
    for name in ("one", "two"):
        told: list[StandinProgress] = []
        build_standin(config, texts, {0: texts[:4]}, COLUMNS, tmp_path / name, told.append)
        assert told[-1].ma >= 0.6 and told[-1].epoch == len(told)
    one, two = (load_model(str(tmp_path / name)).model for name in ("one", "two"))
    assert type(one).__name__ == architecture
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_what_is_not_memorised_is_refused_with_what_was_reached(tmp_path: Path) -> None:
    texts = make_records(0, 0, 12, COLUMNS.length)
    config = StandinConfig.model_validate({**EASY, "max_epochs": 1, "min_memorization": 0.99})
    with pytest.raises(UserError, match=r"not memorised after standin\.max_epochs=1"):
        build_standin(config, texts, {0: texts[:4]}, COLUMNS, tmp_path / "model", lambda progress: None)
    assert not (tmp_path / "model").exists()
