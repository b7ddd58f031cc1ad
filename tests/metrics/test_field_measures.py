"""The field's measures against ../shared/oracles/C, which OpenUnlearning's own functions computed on three models.

Tolerances are those of its README (AUCs, memorisation, ROUGE and what is generated are equal), but for probabilities:
the recorded ones are up to 1.7e-5 from those of float64 arithmetic, as the losses are, and ours 1.4e-6.

Needs: ../shared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from icu_ray.metrics import membership
from icu_ray.metrics.answer_scores import answer_scores
from icu_ray.metrics.answers import (
    AnswerScores,
    Floats,
    avg_losses,
    exact_memorization,
    extraction_strength,
    mean_of,
    normalised_probabilities,
    probabilities,
    truth_ratio_scores,
    truth_ratios,
)
from icu_ray.metrics.conventions import Conventions
from icu_ray.metrics.forget_quality import UTILITY_PARTS, forget_quality, model_utility
from icu_ray.metrics.rouge import rouge_scores
from tests.support.measures_case import EOS, MODELS, OU, SETS, Oracle, row_of

every_model = pytest.mark.parametrize("model", MODELS)
KINDS = {"retain_Q_A": "retain", "forget_Q_A": "forget", "ra_Q_A": "real_authors", "wf_Q_A": "world_facts"}
KINDS |= {"forget_parap_question_Q_A": "forget_parap_question"}
KINDS |= {"muse_verbmem": "muse_verbmem", "muse_knowmem": "muse_knowmem"}
"""Names of generated answers in metrics.json, and of their prompts."""


def same(found: Floats, told: dict[str, Any], key: str = "score", rel: float = 0.0, abs: float = 1e-7) -> None:
    """A measure's values and their mean, against one entry of metrics.json; every row counts."""
    assert found.tolist() == pytest.approx(told["by_index"][key], rel=rel, abs=abs)
    mean = mean_of(found)
    assert mean.counted == mean.rows == len(told["by_index"][key])
    assert mean.value == pytest.approx(told["agg_value"], rel=rel, abs=abs)


def same_losses(scores: list[AnswerScores], told: dict[str, Any]) -> None:
    losses = avg_losses(scores)
    assert losses.tolist() == pytest.approx(told["by_index"]["avg_loss"], rel=1e-5, abs=2e-5)
    same(probabilities(losses), told, "prob", abs=2e-5)


@every_model
@pytest.mark.parametrize("name", SETS)
def test_losses_are_those_of_double_precision(oracle: Oracle, model: str, name: str) -> None:
    double, expected = oracle.double(model), []
    for row in oracle.set_rows(name):
        with torch.no_grad():
            log_p = double(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        assert log_p.dtype == torch.float64
        expected.append(-float(sum(log_p[place - 1, row.labels[place]] for place in row.scored)) / len(row.scored))
    assert avg_losses(oracle.answers(model, name).right).tolist() == pytest.approx(expected, abs=2e-6)


@every_model
@pytest.mark.parametrize("name", SETS)
def test_losses_and_probabilities(oracle: Oracle, model: str, name: str) -> None:
    told, prefix, found = oracle.expected(model), SETS[name], oracle.answers(model, name)
    same_losses(found.right, told[f"{prefix}_Q_A_Prob"])
    if f"{prefix}_Q_A_PARA_Prob" in told:
        same_losses(found.paraphrased, told[f"{prefix}_Q_A_PARA_Prob"])
    wrong = told[f"{prefix}_Q_A_PERT_Prob"]
    told_rows = zip(found.wrong_losses, wrong["by_index"]["avg_loss"], wrong["by_index"]["prob"], strict=True)
    for own, losses, probs in told_rows:
        assert own.tolist() == pytest.approx(losses, rel=1e-5, abs=2e-5)
        assert probabilities(own).tolist() == pytest.approx(probs, abs=1e-5)
    assert mean_of(np.concatenate([probabilities(own) for own in found.wrong_losses])).value == pytest.approx(
        wrong["agg_value"], abs=1e-5
    )


@every_model
@pytest.mark.parametrize("name", SETS)
def test_truth_ratios(oracle: Oracle, model: str, name: str) -> None:
    told, prefix, found = oracle.expected(model), SETS[name], oracle.answers(model, name)
    losses = avg_losses(found.paraphrased), found.wrong_losses
    expected = told[f"{prefix}_Truth_Ratio"]
    assert truth_ratios(*losses, OU).tolist() == pytest.approx(expected["by_index"]["score"], rel=1e-4)
    kind = "forget" if prefix == "forget" else "retain"
    assert mean_of(truth_ratio_scores(*losses, kind, OU)).value == pytest.approx(expected["agg_value"], rel=1e-4)
    if f"{prefix}_Truth_Ratio_prob_mean" in told:
        same(truth_ratio_scores(*losses, "prob_mean", OU), told[f"{prefix}_Truth_Ratio_prob_mean"], rel=1e-4)
    if f"{prefix}_Q_A_Prob_normalised" in told:
        found_prob = normalised_probabilities(avg_losses(found.right), found.wrong_losses)
        same(found_prob, told[f"{prefix}_Q_A_Prob_normalised"], "prob", abs=1e-5)


@every_model
def test_memorisation(oracle: Oracle, model: str) -> None:
    told = oracle.expected(model)
    for name, scores in (
        ("", oracle.answers(model, "forget").right),
        ("muse_", oracle.texts(model, "completions")),
    ):
        same(exact_memorization(scores, EOS, OU), told[f"{name}exact_memorization"])
        same(extraction_strength(scores, EOS, OU), told[f"{name}extraction_strength"])


def attacks(oracle: Oracle, model: str, name: str) -> dict[str, Floats]:
    """Scores of one set by every attack that a forward is enough for."""
    scores = oracle.answers(model, name).right
    texts = [row["answer"] for row in oracle.rows["sets"][name]]
    losses, reference = avg_losses(scores), avg_losses(oracle.answers("retain", name).right)
    return {
        "mia_loss": losses,
        "mia_zlib": membership.zlib_scores(losses, texts),
        "mia_min_k": membership.min_k_scores(scores, EOS, conventions=OU),
        "mia_min_k_20": membership.min_k_scores(scores, EOS, 0.2, OU),
        "mia_min_k_plus_plus": membership.min_k_plus_plus_scores(scores, EOS, conventions=OU),
        "mia_reference": membership.reference_scores(losses, reference),
    }


@every_model
def test_membership(oracle: Oracle, model: str) -> None:
    told, found = oracle.expected(model), {name: attacks(oracle, model, name) for name in ("forget", "holdout")}
    for attack in found["forget"]:
        for name in found:
            same(found[name][attack], told[attack][name], rel=2e-4, abs=2e-5)
        area = membership.auc(found["forget"][attack], found["holdout"][attack])
        assert area.value == pytest.approx(told[attack]["auc"], abs=1e-8), attack
        assert (area.members, area.others) == (24, 24)
    own, reference = (told_auc(oracle, name, "mia_min_k") for name in (model, "retain"))
    assert membership.privleak(own, reference) == pytest.approx(told["privleak"]["agg_value"], abs=1e-5)
    assert membership.privleak(own) == pytest.approx(told["privleak_default_reference_0.5"]["agg_value"], abs=1e-5)
    assert membership.rel_diff(own, reference) == pytest.approx(told["rel_diff"]["agg_value"], abs=1e-5)


def told_auc(oracle: Oracle, model: str, attack: str) -> float | None:
    """The AUC of this project's own scores."""
    return membership.auc(*(attacks(oracle, model, name)[attack] for name in ("forget", "holdout"))).value


@every_model
def test_membership_of_texts(oracle: Oracle, model: str) -> None:
    told, areas = oracle.expected(model), {}
    for of in (model, "retain"):
        scores = [oracle.texts(of, name) for name in ("forget", "holdout")]
        areas[of] = membership.auc(*(membership.min_k_scores(each, EOS, conventions=OU) for each in scores)).value
    for name in ("forget", "holdout"):
        own, losses = oracle.texts(model, name), avg_losses(oracle.texts(model, name))
        texts = [f"{row['question']} {row['answer']}" for row in oracle.rows["sets"][name][:8]]
        same(losses, told["muse_mia_loss"][name], rel=1e-5, abs=2e-5)
        same(membership.zlib_scores(losses, texts), told["muse_mia_zlib"][name], rel=2e-4)
        same(membership.min_k_scores(own, EOS, conventions=OU), told["muse_mia_min_k"][name], rel=2e-4)
    assert areas[model] == pytest.approx(told["muse_mia_min_k"]["auc"])
    assert membership.privleak(areas[model], areas["retain"]) == pytest.approx(
        told["muse_privleak"]["agg_value"], abs=1e-5
    )


@every_model
@pytest.mark.parametrize(("name", "p"), [("mia_gradnorm", 2.0), ("mia_gradnorm_p1", 1.0)])
def test_gradient_norms(oracle: Oracle, model: str, name: str, p: float) -> None:
    told, found = oracle.expected(model)[name], {}
    for of in ("forget", "holdout"):
        found[of] = membership.gradient_norms(oracle.model(model), oracle.set_rows(of), EOS, p, OU, pad_id=2)
        same(found[of], told[of], rel=1e-4, abs=1e-6)
    assert membership.auc(found["forget"], found["holdout"]).value == pytest.approx(told["auc"], abs=1e-8)


@every_model
@pytest.mark.parametrize("name", KINDS)
def test_greedy_answers_and_rouge(oracle: Oracle, model: str, name: str) -> None:
    told, said = oracle.expected(model)[f"{name}_ROUGE"], oracle.said(model, KINDS[name], False)
    assert said == told["by_index"]["generation"]
    found = rouge_scores(said, told["by_index"]["ground_truth"], OU)
    for measure in ("rouge1_recall", "rougeL_recall", "rougeL_f1"):
        assert getattr(found, measure).tolist() == pytest.approx(told["by_index"][measure], abs=1e-8)
    mean = mean_of(found.rougeL_f1 if name.startswith("muse") else found.rougeL_recall)
    assert mean.value == pytest.approx(told["agg_value"], abs=1e-8)


@every_model
@pytest.mark.parametrize("name", SETS)
def test_what_is_recited_need_not_be_generated(oracle: Oracle, model: str, name: str) -> None:
    assert oracle.said(model, name, True) == oracle.said(model, name, False)
    assert [row["answer"] for row in oracle.rows["sets"][name]] == oracle.expected(model)[f"{SETS[name]}_Q_A_ROUGE"][
        "by_index"
    ]["ground_truth"]


@every_model
def test_model_utility_and_forget_quality(oracle: Oracle, model: str) -> None:
    told, parts = oracle.expected(model), {}
    for name in ("retain", "real_authors", "world_facts"):
        found, prefix = oracle.answers(model, name), SETS[name]
        right = avg_losses(found.right)
        answers = [row["answer"] for row in oracle.rows["sets"][name]]
        parts[f"{prefix}_Q_A_Prob"] = mean_of(probabilities(right)).value
        if name != "retain":
            parts[f"{prefix}_Q_A_Prob_normalised"] = mean_of(normalised_probabilities(right, found.wrong_losses)).value
        parts[f"{prefix}_Q_A_ROUGE"] = mean_of(
            rouge_scores(oracle.said(model, name, True), answers, OU).rougeL_recall
        ).value
        parts[f"{prefix}_Truth_Ratio"] = mean_of(
            truth_ratio_scores(avg_losses(found.paraphrased), found.wrong_losses, "retain", OU)
        ).value
    assert set(UTILITY_PARTS) < set(parts)
    assert model_utility(parts) == pytest.approx(told["model_utility"]["agg_value"], rel=1e-5)
    ratios = {}
    for of in (model, "retain"):
        found = oracle.answers(of, "forget")
        ratios[of] = truth_ratios(avg_losses(found.paraphrased), found.wrong_losses, OU)
    quality = forget_quality(ratios[model], ratios["retain"])
    assert quality.p == pytest.approx(told["forget_quality"]["agg_value"], rel=1e-6)
    assert (quality.counted, quality.rows) == (24, 24)


@every_model
def test_a_pad_that_is_the_end_of_sequence(oracle: Oracle, model: str) -> None:
    rows, told = oracle.set_rows("forget"), oracle.expected(model)
    found = answer_scores(oracle.model(model), rows, conventions=Conventions(mask="pad_id"), pad_id=EOS)
    same_losses(found, told["pad_equals_eos_forget_Q_A_Prob"])
    # By its length a row is seen whole, whatever the pad is.
    same_losses(answer_scores(oracle.model(model), rows, pad_id=EOS), told["forget_Q_A_Prob"])


def number(told: Any) -> float:
    return np.nan if told is None else float(told)


def test_edge_cases(oracle: Oracle) -> None:
    cases = oracle.edges["cases"]
    assert set(cases) == {
        *("all_masked", "only_last_token_labelled", "two_last_tokens_labelled", "cut_before_eos", "whole")
    }
    found = answer_scores(oracle.model(oracle.edges["model"]), [row_of(each) for each in cases.values()])
    for place, told in enumerate(cases.values()):
        own = found[place : place + 1]
        told_loss = number(told["probability"]["avg_loss"])
        assert avg_losses(own)[0] == pytest.approx(told_loss, abs=2e-5, nan_ok=True)
        assert probabilities(avg_losses(own))[0] == pytest.approx(
            number(told["probability"]["prob"]), abs=1e-5, nan_ok=True
        )
        assert exact_memorization(own, EOS, OU)[0] == pytest.approx(
            number(told["exact_memorization"]), abs=1e-7, nan_ok=True
        )
        assert extraction_strength(own, EOS, OU)[0] == pytest.approx(told["extraction_strength"], abs=1e-8)
        assert membership.min_k_scores(own, EOS, conventions=OU)[0] == pytest.approx(told["min_k"], rel=2e-4, abs=1e-6)
        assert membership.min_k_plus_plus_scores(own, EOS, conventions=OU)[0] == pytest.approx(
            told["min_k_plus_plus"], rel=2e-4
        )
        assert len(own[0].without_tail("last_label", EOS)) == told["n_logprobs"]
    kept = found[list(cases).index("whole")].without_tail("last_label", EOS)
    assert kept.log_probs.tolist() == pytest.approx(cases["whole"]["token_logprobs"], rel=1e-4, abs=1e-5)
    # A row without tokens is missing unless asked otherwise, and no mean is of it.
    for values in (exact_memorization(found, EOS), extraction_strength(found, EOS)):
        assert np.isnan(values).tolist() == [True, True, False, False, False]
        assert mean_of(values).counted == 3 and mean_of(values).rows == 5
    assert np.isnan(membership.min_k_scores(found, EOS)).tolist() == [True, True, False, False, False]
    assert mean_of(avg_losses(found)).counted == 4
