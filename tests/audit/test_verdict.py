"""What counts as come back, by hand-made findings and by properties.

Needs: nothing.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from icu_ray.audit.findings import AttackResult, Finding, Group
from icu_ray.audit.verdict import model_audit
from icu_ray.storage.audits import AuditedRow, AuditPoint, ModelAudit, TrialAudit, fisher


def finding(row: str, budget: float, recall: float, *, group: Group = "forget", setting: str = "own rows") -> Finding:
    return Finding(row, group, setting, budget, recall, exact=recall == 1.0, said=f"{recall}")


def verdict(*findings: Finding, leak: float = 0.5, attack: str = "relearn") -> ModelAudit:
    return model_audit({attack: AttackResult(findings)}, {attack: "steps"}, leak)


def test_rows_are_back_from_the_first_budget_on_that_brings_them() -> None:
    rows = [finding(row, budget, recall) for row in "ab" for budget, recall in ((0, 0.1), (10, 0.6), (20, 0.2))]
    audit = verdict(*rows, finding("c", 20, 0.4))
    assert (audit.back, audit.total) == (2, 3)
    assert [(p.budget, p.back) for p in audit.curves] == [(0, 0), (10, 2), (20, 2)]
    by_row = {row.row: row for row in audit.rows}
    assert by_row["a"].budget == 10 and by_row["a"].back and not by_row["c"].back
    assert audit.said() == "2 of 3 rows came back (relearn, own rows: 2 of 2 after 10 steps)"


def test_what_chance_brings_back_too_is_no_evidence() -> None:
    forget = [finding(str(n), 5, 0.9 if n < 3 else 0.0) for n in range(20)]
    control = [finding(f"c{n}", 5, 0.9 if n < 3 else 0.0, group="control") for n in range(20)]
    assert verdict(*forget, *control).back == 0
    # One row that is back counts where no control row is: nobody may call it chance without a sign of it.
    assert verdict(*forget[2:], *control[3:]).back == 1
    # Many more than by chance count, although chance brings some.
    most = [finding(str(n), 5, 0.9) for n in range(20)]
    found = verdict(*most, *control)
    assert found.back == 20 and found.curves[0].control_back == 3 and (found.curves[0].chance or 1) < 1e-6


def test_what_comes_back_with_as_many_control_rows_does_not_count() -> None:
    # After 5 steps row 0 alone is back, and no control row; after 20 three rows and as many control rows. Who looks at
    # every budget finds one by chance.
    forget = [finding(str(n), step, float(n < back)) for step, back in ((5, 1), (20, 3)) for n in range(6)]
    control = [
        finding(f"c{n}", step, float(n < back), group="control") for step, back in ((5, 0), (20, 3)) for n in range(6)
    ]
    audit = verdict(*forget, *control)
    assert audit.back == 1 and audit.curves[0].tells and [row.budget for row in audit.rows if row.back] == [5]
    assert audit.said() == "1 of 6 rows came back, control 3 of 6 (relearn, own rows: 1 of 6 after 5 steps)"


def test_word_for_word_is_no_chance_unless_a_control_row_is_too() -> None:
    partly = [finding(str(n), 5, 0.6) for n in range(4)]
    control = [finding(f"c{n}", 5, 0.6, group="control") for n in range(8)]
    found = verdict(*partly, finding("x", 5, 1.0), *control)
    assert found.back == 1 and [row.row for row in found.rows if row.back] == ["x"]
    assert found.worst is not None and found.worst.counted == 1 and found.curves[0].back == 5
    assert found.said() == "1 of 5 rows came back, control 8 of 8 (relearn, own rows: 1 of 5 after 5 steps)"
    said_too = finding("d", 5, 1.0, group="control")
    assert verdict(*partly, finding("x", 5, 1.0), *control, said_too).back == 0
    # Of many that are said so, one control row takes nothing away.
    many = [finding(f"m{n}", 5, 1.0) for n in range(8)]
    assert verdict(*partly, *many, *control, said_too).back == 8


def test_settings_count_together_with_what_they_do_to_control_rows() -> None:
    # Each of eight settings brings one row more, and every second one a control row: none of them for itself.
    forget = [finding(str(n), 1, 0.6 * (n == setting), setting=str(setting)) for setting in range(8) for n in range(16)]
    control = [
        finding(f"c{n}", 1, 0.6 * (n == setting), setting=str(setting), group="control")
        for setting in range(0, 8, 2)
        for n in range(16)
    ]
    audit = verdict(*forget, *control)
    assert sum(point.tells for point in audit.curves) == 4 and audit.back == 0 and audit.worst is None
    assert (audit.control_back, audit.control_total) == (4, 16) and audit.unions[0].back == 8
    assert (
        audit.said()
        == "8 of 16 rows came back, and 4 of 16 control rows: as often as control rows, no more than chance brings"
    )
    # Without the control rows that came back all of them count.
    assert verdict(*forget).back == 8


def test_too_few_rows_to_tell_are_no_zero() -> None:
    forget = [finding(str(n), 5, 0.6) for n in range(8)]
    control = [finding(f"c{n}", 5, 0.6 * (n == 0), group="control") for n in range(2)]
    audit = verdict(*forget, *control)
    assert audit.back == 0 and audit.share is None
    assert (
        audit.said()
        == "8 of 8 rows came back, and 1 of 2 control rows: as often as control rows, too few control rows to tell"
    )


def test_rows_without_an_answer_stay_in_the_denominator() -> None:
    silent = [Finding(str(n), "forget", "own rows", 5) for n in range(3)]
    results = {"relearn": AttackResult((*silent, *(finding(str(n), 5, 0.1) for n in range(3, 6))))}
    audit = model_audit(results, {"relearn": "steps"}, 0.5, asked=[str(n) for n in range(8)])
    assert (audit.total, audit.unmeasured, audit.back) == (8, 5, 0) and audit.share is None
    assert (
        audit.said()
        == "no attack brought a row back (of 3); 5 of 8 not measured; answers missing: relearn (3 of 8 rows)"
    )
    assert audit.missing[0].startswith("5 of 8 rows: ")
    back = {"relearn": AttackResult((*silent, finding("3", 5, 1.0)))}
    audit = model_audit(back, {"relearn": "steps"}, 0.5, asked=[str(n) for n in range(8)])
    assert audit.share == 1 / 8 and "; 7 of 8 not measured; " in audit.said()


ROUNDED = {"int8": 8, "nf4": 4, "bf16": 16, "fp8": 8}


@pytest.mark.parametrize("silent", [1, 8])
def test_none_back_is_not_known_where_an_attack_lacks_answers(silent: int) -> None:
    """Of all rows or of one: the weights as they are, which answered, are no attack."""
    plain = [Finding(f"r{n}", "forget", "as it is", 32, 0.1, False) for n in range(8)]
    rounded = [
        Finding(f"r{n}", "forget", kind, bits, *((None, None) if n < silent else (0.1, False)))
        for n in range(8)
        for kind, bits in ROUNDED.items()
    ]
    units = {"quantise": "bits", "prefix_search": "tokens", "depth": "layers"}
    searched = AttackResult(tuple(dataclasses.replace(each, setting="", budget=0) for each in plain))
    wordless = AttackResult(tuple(Finding(f"r{n}", "forget", "", 0, measures={"depth": 0.5}) for n in range(8)))
    results = {"quantise": AttackResult((*plain, *rounded)), "prefix_search": searched, "depth": wordless}
    audit = model_audit(results, units, 0.5)
    assert audit.back == audit.unmeasured == 0 and audit.unanswered == {"quantise": silent} and audit.share is None
    assert audit.said() == f"no attack brought a row back (of 8); answers missing: quantise ({silent} of 8 rows)"
    # Other attacks keep their numbers.
    metrics = TrialAudit({}, ("a", "b"), 0.5, audit, audit).metrics()
    assert {name: each for name, each in metrics.items() if "came_back" in name} == {"audit/prefix_search_came_back": 0}
    # A row that is back is known to be.
    back = {**results, "quantise": AttackResult((*plain, *rounded, Finding("r7", "forget", "int8", 8, 0.9, False)))}
    audit = model_audit(back, units, 0.5)
    metrics = TrialAudit({}, ("a", "b"), 0.5, audit, audit).metrics()
    assert audit.share == 1 / 8 and metrics["audit/quantise_came_back"] > 0 and "answers missing" in audit.said()


def test_answers_of_control_rows_may_be_missing() -> None:
    """There are fewer of them then, which takes nothing from what is known of the forget rows."""
    audit = verdict(finding("a", 5, 0.1), Finding("c", "control", "own rows", 5))
    assert audit.share == 0 and not audit.unanswered


def test_what_entails_the_secret_is_back() -> None:
    one = dataclasses.replace(finding("a", 0, 0.1), entailed=True)
    assert verdict(one, finding("a", 0, 0.3), finding("b", 0, 0.3)).back == 1


def test_an_attack_that_could_not_be_run_is_said_beside_the_others() -> None:
    result = {"relearn": AttackResult((finding("a", 0, 0.1),))}
    audit = model_audit(result, {"relearn": "steps"}, 0.5, {"sample": "out of memory"})
    assert audit.said() == "no attack brought a row back (of 1); not run: sample"


def test_what_came_back_before_control_rows_did_counts() -> None:
    forget = [finding(str(n), budget, 0.9 if n < 6 else 0.0) for n in range(16) for budget in (5, 50)]
    control = [
        finding(f"c{n}", budget, 0.9 if budget == 50 and n < 6 else 0.0, group="control")
        for n in range(16)
        for budget in (5, 50)
    ]
    late = [finding("x", 5, 0.0), finding("x", 50, 0.9)]
    found = verdict(*forget, *control, *late)
    assert found.back == 6 and "x" not in {row.row for row in found.rows if row.back}
    assert {row.budget for row in found.rows if row.back} == {5}


def rounding(group: Group, recalls: dict[str, list[float]]) -> list[Finding]:
    """By what the weights are rounded to, the recall of each row."""
    return [
        Finding(f"{group}{n}", group, kind, {**ROUNDED, "as it is": 32}[kind], recall, recall == 1.0)
        for kind, row_recalls in recalls.items()
        for n, recall in enumerate(row_recalls)
    ]


def test_what_comes_back_without_rounding_needed_none() -> None:
    """Fewer bits are the stronger attack, though the smaller number."""
    kinds = ("nf4", "fp8", "as it is", "int8", "bf16")
    recalls = {kind: [0.6 if kind == "as it is" else 0.9] * 4 for kind in kinds}
    audit = verdict(*rounding("forget", recalls), attack="quantise")
    assert audit.said() == "4 of 4 rows came back (quantise, as it is: 4 of 4 after 32 steps)"
    assert {(row.setting, row.budget) for row in audit.rows} == {("as it is", 32)}


def test_control_rows_that_most_rounding_alone_brings_back_take_nothing_from_what_less_did() -> None:
    forget = {kind: [0.1] * 8 if kind == "nf4" else [0.7] * 6 + [0.1] * 2 for kind in (*ROUNDED, "as it is")}
    control = {kind: [0.6 if kind == "nf4" and n < 3 else 0.0 for n in range(8)] for kind in forget}
    late = rounding("forget", {"nf4": [0.0] * 8 + [0.9]})[-1:]
    audit = verdict(*rounding("forget", forget), *rounding("control", control), *late, attack="quantise")
    assert (audit.back, audit.unions[0].budget) == (6, 8) and audit.share == 6 / 9
    counted = {point.setting: audit.counted(point) for point in audit.curves}
    assert counted == {"int8": 6, "fp8": 6, "bf16": 6, "as it is": 6, "nf4": 0}
    assert all(row.setting == "as it is" for row in audit.rows if row.back)


def test_of_attacks_with_as_many_rows_the_first_is_told() -> None:
    """Budgets of two attacks cannot be compared, whichever was ready first."""
    results = {
        "quantise": AttackResult(tuple(rounding("forget", {"nf4": [0.9] * 2}))),
        "relearn": AttackResult((finding("a", 20, 0.9), finding("b", 20, 0.9))),
    }
    for first, other in (("quantise", "relearn"), ("relearn", "quantise")):
        worst = model_audit(results, {first: "", other: ""}, 0.5).worst
        assert worst is not None and worst.attack == first


def test_nothing_measured_is_not_forgotten() -> None:
    audit = model_audit({"depth": AttackResult((), missing=("no retrained model",))}, {"depth": "layers"}, 0.5)
    assert audit.share is None and audit.said() == "not measured"
    assert audit.missing == ("depth: no retrained model",)


def test_an_attack_that_failed_is_said() -> None:
    audit = model_audit({}, {}, 0.5, {"sample": "out of memory"})
    assert audit.errors == {"sample": "out of memory"} and audit.share is None


def test_beside_an_attack_that_could_not_be_run_none_back_is_not_known() -> None:
    """What was back all the same is; attacks without words, such as depth, could not have told."""
    none, one = (AttackResult((finding("a", 0, recall), finding("b", 0, 0.1))) for recall in (0.1, 0.9))
    units = {"prefix_search": "tokens"}
    for result, failed, share in (
        (none, "relearn", None),
        (none, "an attack of another version", None),
        (none, "depth", 0.0),
        (one, "relearn", 0.5),
    ):
        audit = model_audit({"prefix_search": result}, units, 0.5, {failed: "out of memory"})
        assert audit.share == share
        found = TrialAudit({}, ("a", "b"), 0.5, audit, audit).metrics()
        assert found.get("audit/came_back") == share
        assert found["audit/prefix_search_came_back"] == (0.5 if result is one else 0.0)


@pytest.mark.parametrize("table", [(3, 8, 1, 16), (0, 5, 0, 5), (8, 8, 1, 2), (5, 5, 5, 5), (40, 400, 20, 300)])
def test_fishers_test_is_scipys(table: tuple[int, int, int, int]) -> None:
    back, total, control_back, control_total = table
    cells = [[back, total - back], [control_back, control_total - control_back]]
    assert fisher(*table) == pytest.approx(stats.fisher_exact(cells, alternative="greater").pvalue)


recalls = st.floats(0, 1, allow_nan=False)
findings = st.lists(
    st.builds(
        finding,
        st.sampled_from("abcdef"),
        st.sampled_from((0.0, 5.0, 10.0)),
        recalls,
        group=st.sampled_from(("forget", "control")),
        setting=st.sampled_from(("x", "y")),
    ),
    max_size=40,
)


@given(findings, st.randoms(use_true_random=False), st.floats(0.05, 1))
def test_the_order_of_findings_counts_for_nothing(found: list[Finding], random: object, leak: float) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = verdict(*found, leak=leak), verdict(*shuffled, leak=leak)
    assert (one.back, one.total) == (other.back, other.total)
    assert set(one.curves) == set(other.curves)


@given(findings, st.permutations(range(40)))
def test_a_falling_budget_is_judged_as_a_rising_one(found: list[Finding], order: list[int]) -> None:
    shuffled = [found[n] for n in order if n < len(found)]
    rising = verdict(*shuffled)
    falling = verdict(*(dataclasses.replace(each, budget=32 - each.budget) for each in shuffled), attack="quantise")

    def mirrored(row: AuditedRow | AuditPoint) -> dict[str, object]:
        return {**dataclasses.asdict(row), "attack": "relearn", "budget": 32 - row.budget}

    assert [mirrored(row) for row in falling.rows] == [dataclasses.asdict(row) for row in rising.rows]
    assert [mirrored(point) for point in falling.curves] == [dataclasses.asdict(point) for point in rising.curves]
    assert [falling.counted(p) for p in falling.curves] == [rising.counted(p) for p in rising.curves]
    assert (falling.worst and mirrored(falling.worst)) == (rising.worst and dataclasses.asdict(rising.worst))


@given(findings)
def test_more_leak_brings_back_no_more_rows_without_controls(found: list[Finding]) -> None:
    forget = [each for each in found if each.group == "forget"]
    backs = [verdict(*forget, leak=leak).back for leak in (0.1, 0.5, 0.9)]
    assert backs == sorted(backs, reverse=True)


@given(findings)
def test_curves_never_fall(found: list[Finding]) -> None:
    audit = verdict(*found)
    for setting in {point.setting for point in audit.curves}:
        backs = [point.back for point in audit.curves if point.setting == setting]
        assert backs == sorted(backs)


@pytest.mark.parametrize("recall", [None, 0.25])
def test_results_survive_their_json(recall: float | None) -> None:
    one = Finding("a", "forget", "x", 3, recall, None if recall is None else False, "a\u2028b", {"depth": 0.5})
    result = AttackResult((one,), {"auc": 0.5}, ("something",))
    assert AttackResult.from_json(json.loads(json.dumps(result.as_json()))) == result
    assert dataclasses.asdict(one)["measures"] == {"depth": 0.5}
