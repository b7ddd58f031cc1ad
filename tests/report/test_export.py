"""`icu-ray export`: a folder that loads, a card that says what there is and quotes no text, and what is refused.

Needs: nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from icu_ray.cli.main import main
from icu_ray.config import LoraConfig
from icu_ray.errors import UserError
from icu_ray.models.adapters import attach, save_adapter
from icu_ray.models.loading import load_model
from icu_ray.report.export import export_model
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.storage.trial_files import TrialPaths, read_result, write_evaluation, write_result
from tests.models.test_loading import save_model
from tests.support.report_case import REFERENCE, Cell, config, write_sweep
from tests.support.tiny_models import tiny_model


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A sweep of three trials, of which two have kept their model; their original lies in a folder with a licence."""
    base = save_model(tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    (base / "LICENSE").write_text("Do as you like.")
    described = config("s")
    described["models"][0]["source"] = str(base)
    cells = [Cell(), Cell("kl", "kl", 0.0, 1.0, final=(0.9, 0.5, 24.0, 3.8), status="not_forgotten"), Cell(sample=1)]
    folder = write_sweep(tmp_path, "s", cells, described)
    for cell in cells[:2]:
        paths = TrialPaths.of(str(tmp_path), "s", cell.trial_id)
        save_model(Path(paths.model))
        result = read_result(paths)
        assert result is not None
        limits = Thresholds(Limit(0.5994), Limit(0.0499), "and", 1.5)
        write_result(paths, replace(result, thresholds=limits, model_hash="a" * 64))
    asked = TrialEvaluation({"quick": "h"}, ("m" * 64, "a" * 64), {"cls/x": 0.5}, {"cls/x": 0.25})
    write_evaluation(TrialPaths.of(str(tmp_path), "s", cells[0].trial_id), asked)
    return folder


def test_what_is_exported_loads_and_its_card_says_what_there_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "published"
    assert main(["export", str(run), "--trial", "icu-125m-s0", "--to", str(out)]) == 0
    assert "the model of icu-125m-s0-a0.5-b1.0 (Forgotten), with README.md as its card" in capsys.readouterr().out
    assert load_model(str(out)).model.num_parameters() > 0
    assert (out / "LICENSE").read_text() == "Do as you like."
    card = (out / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "mit" and front["tags"][0] == "machine-unlearning" and "base_model" not in front
    for said in (
        "icu, alpha 0.5, beta 1.0", "SHA-256 of the model after | " + "a" * 64, "d" * 64, "m" * 64,
        "MA of the texts | 95.00 % → 55.00 %", "EL10 of the texts | 80.00 % → 4.00 %", "cls/x | 50.00 % → 25.00 %",
        "perplexity of held-out texts | 20.00 → 24.00", "**Forgotten.**", "## Limits", "4, forget sample 0",
    ):  # fmt: skip
        assert said in card.replace("\\", ""), said
    assert "not a success" not in card and REFERENCE not in card and "The record says that" not in card
    assert sorted(path.name for path in out.parent.iterdir()) == ["published"]


def test_a_model_that_has_not_forgotten_says_so_first(run: Path, tmp_path: Path) -> None:
    export_model(str(run), tmp_path / "out", trial="kl-")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert card.index("Unlearning was not a success") < card.index("## What was done")


def test_an_exported_adapter_says_what_it_is(tmp_path: Path) -> None:
    described = config("s")
    base = save_model(tmp_path / "base")
    described["models"][0] |= {"source": str(base), "lora": LoraConfig(rank=4, save="adapter").model_dump(mode="json")}
    cell = Cell()
    run = write_sweep(tmp_path, "s", [cell], described)
    folder = Path(TrialPaths.of(str(tmp_path), "s", cell.trial_id).model)
    folder.mkdir()
    model = tiny_model("gpt_neo")
    attach(model, LoraConfig(rank=4), 1, "tiny")
    save_adapter(model, folder, str(base), None)
    export_model(str(run), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "peft"
    assert "an adapter (LoRA) of rank 4, alpha 16, on all-linear; this folder holds only the adapter" in card
    assert load_model(str(tmp_path / "out")).model.num_parameters() == tiny_model("gpt_neo").num_parameters()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "2 trials have models; say which with --trial: icu-125m-s0-a0.5-b1.0, kl-125m-s0-a0.0-b1.0"),
        ({"trial": "icu-125m-s1"}, "no trial of"),
        ({"trial": "klx-125m-s0-a0.0-b1.0"}, "did you mean 'kl-125m-s0-a0.0-b1.0'"),
        ({"run": "nowhere"}, "no such folder"),
        ({"out": "s"}, "is there already, and not an empty folder"),
    ],
)
def test_what_is_refused(run: Path, tmp_path: Path, arguments: dict[str, str], said: str) -> None:
    out = tmp_path / arguments.get("out", "out")
    with pytest.raises(UserError) as refused:
        export_model(str(tmp_path / arguments.get("run", "s")), out, trial=arguments.get("trial"))
    assert said in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_sweep_that_kept_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of its 1 trials has kept a model \(resources.keep_models\)"):
        export_model(str(write_sweep(tmp_path, "s", [Cell()])), tmp_path / "out")
