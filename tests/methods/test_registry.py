"""The registry: built-ins, settings, plug-ins of other packages, and what is said when one is broken.

Needs: nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from icu_ray import methods
from icu_ray.errors import UserError

PLUG_IN = """
from icu_ray.methods.base import Method
from icu_ray.methods.objective import nll

class Gentle(Method):
    name = "gentle"
    defaults = {"strength": 0.5}

    def objective(self):
        return -self.settings["strength"] * nll("target") + self.alpha * nll("pair")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package with one good plug-in and two broken ones, made of plain files."""
    (tmp_path / "gentle_unlearning.py").write_text(PLUG_IN)
    (tmp_path / "broken_unlearning.py").write_text("import a_module_that_is_not_there\n")
    info = tmp_path / "gentle_unlearning-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gentle-unlearning\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[icu_ray.methods]\n"
        "gentle = gentle_unlearning:Gentle\n"
        "broken = broken_unlearning:Broken\n"
        "number = gentle_unlearning:PLUG\n"
        "icu = gentle_unlearning:Gentle\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "gentle-unlearning"


def test_built_ins_say_what_they_need() -> None:
    assert methods.names()[:6] == ("icu", "kumpr", "kl", "llmu", "po", "dpo")
    needs = {
        n: (m.needs_pairs, m.needs_reference, m.needs_reference_nll) for n in methods.BUILT_IN if (m := methods.get(n))
    }
    assert needs == {
        "icu": (True, True, False),
        "kumpr": (False, False, False),
        "kl": (True, True, False),
        "llmu": (True, True, False),
        "po": (True, False, False),
        "dpo": (True, False, True),
        "npo": (False, False, True),
        "graddiff": (True, False, False),
        "wga": (True, False, False),
        "satimp": (True, False, False),
        "simnpo": (True, False, False),
        "ceu": (False, False, False),
        "undial": (False, False, False),
        "pdu": (True, False, False),
        "idkdpo": (True, False, True),
        "idknll": (True, False, False),
        "altpo": (True, False, True),
        "rmu": (True, False, False),
        "task_vector": (False, False, False),
        "original": (False, False, False),
        "retrained": (False, False, False),
    }


def test_weights_of_zero_drop_what_they_need() -> None:
    assert not methods.get("icu", beta=0.0).needs_reference
    ascent = methods.get("icu", alpha=0.0, beta=0.0)
    assert not ascent.needs_pairs
    assert ascent.objective() == methods.get("kumpr").objective()


def test_the_objective_of_icu_is_equation_6() -> None:
    terms = [
        (factor, t.name, t.kind, t.inputs, t.labels)
        for factor, t in methods.get("icu", alpha=0.3, beta=2.0).objective().terms
    ]
    assert terms == [
        (-1.0, "forget", "nll", "target", "target"),
        (0.3, "learn", "nll", "pair", "pair"),
        (2.0, "kl", "kl", "pair", "pair"),
    ]


def test_a_plug_in_is_found_and_the_broken_ones_are_named(package: str) -> None:
    # Others may be installed here, as the tutorial's is.
    assert {"broken", "gentle", "number"} <= set(methods.names()) - set(methods.BUILT_IN)
    gentle = methods.get("gentle", alpha=0.25, settings={"strength": 2})
    assert gentle.needs_pairs and [factor for factor, _ in gentle.objective().terms] == [-2.0, 0.25]
    with pytest.raises(UserError, match=r"'broken' of plug-in gentle-unlearning .*a_module_that_is_not_there"):
        methods.get("broken")
    assert set(methods.broken()) == {"broken", "number"}  # an installed one that is broken too would be worth knowing
    # A plug-in cannot take a built-in's place.
    assert type(methods.get("icu")).__name__ == "Icu"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("icuu", {}, "did you mean 'icu'"),
        ("dpo", {"beta_dpoo": 0.1}, "did you mean 'beta_dpo'"),
        ("dpo", {"beta_dpo": "high"}, "must be a number, found 'high'"),
        ("dpo", {"beta_dpo": True}, "must be a number, found True"),
        ("icu", {"anything": 1}, "known: none"),
    ],
)
def test_what_is_refused(name: str, settings: dict[str, float | int | str | bool], message: str) -> None:
    with pytest.raises(UserError, match=message):
        methods.get(name, settings=settings)


def test_the_registry_does_not_import_torch() -> None:
    code = (
        "import sys; from icu_ray import methods; "
        "made = [methods.get(n) for n in methods.names()]; [m.needs_pairs for m in made]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
