"""Other prompts: what each is, for chats and for texts, and the prefix attack against the oracle.

Needs: ../shared.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.audit.asked import PromptReader
from icu_ray.audit.attack import Target
from icu_ray.audit.attacks.prompts import Prompts, _Asked, _Writer
from icu_ray.audit.rows import AuditRow, Material
from icu_ray.audit.verdict import model_audit
from icu_ray.data.prompts import special_ids
from icu_ray.models.loading import LoadedModel
from tests.support.audit_case import oracle_loaded, oracle_rows, small_loaded, small_tokenizer, text_rows
from tests.support.measures_case import Oracle


@pytest.fixture(scope="module")
def target(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return oracle_loaded(oracle, "target", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return small_loaded(tmp_path_factory.mktemp("small"))


def written(loaded: LoadedModel, row: AuditRow, control: tuple[AuditRow, ...] = (), **how: object) -> dict[str, _Asked]:
    attack = Prompts(**how)  # type: ignore[arg-type]
    return {each.setting: each for each in _Writer(attack, Target(loaded, Material((row,), control))).prompts_of(row)}


def test_the_prefix_attack_is_the_oracle_s(oracle: Oracle, target: LoadedModel) -> None:
    told = json.loads((oracle.folder / "robustness.json").read_text())["prefix_attack"]
    rows = oracle_rows(oracle, "forget")[:6]
    result = Prompts().run(Target(target, Material(rows)))
    ids = tuple(told["prefix_ids"])
    for row, generation in zip(rows, told["values"]["target"]["generation"], strict=True):
        asked = written(target, row)["answer begun"]
        assert asked.prompt == row.prompt_ids + ids
        (found,) = (e for e in result.findings if e.row == row.id and e.setting == "answer begun")
        # Here an answer is no longer than the secret, there up to 200 tokens.
        assert found.said and generation.strip().startswith(found.said)


def test_a_model_that_knows_says_it_when_asked_as_written(oracle: Oracle, target: LoadedModel) -> None:
    rows, control = oracle_rows(oracle, "forget"), oracle_rows(oracle, "holdout")[:4]
    parts: list[float] = []
    result = Prompts().run(Target(target, Material(rows[:8], control), parts.append))
    first = {e.row: e for e in result.findings if e.setting == "as written" and e.group == "forget"}
    assert {e.budget for e in first.values()} == {1} and len(first) == 8
    assert sum(e.recall == 1 for e in first.values()) >= 5
    chance = [e.recall for e in result.findings if e.group == "control" and e.setting == "as written"]
    assert len(chance) == 4 and max(r for r in chance if r is not None) < 0.7
    # A setting has one budget, whatever row is asked and whatever applies to that row.
    places = {(e.setting, e.budget) for e in result.findings}
    assert len(places) == len({setting for setting, _ in places}) == len({budget for _, budget in places})
    for row in (*rows[:8], *control):
        own = [e.budget for e in result.findings if e.row == row.id]
        assert own == sorted(own)
    assert {"paraphrase 1", "noise 0.1", "noise 0.3", "1 example", "3 examples", "upper case"} <= {
        e.setting for e in result.findings
    }
    assert result.missing == () and parts[-1] == 1


def test_in_a_chat_the_words_of_the_user_alone_are_others(oracle: Oracle, target: LoadedModel) -> None:
    row, control = oracle_rows(oracle, "forget")[0], oracle_rows(oracle, "holdout")
    question, tokenizer = oracle.rows["sets"]["forget"][0]["question"], target.tokenizer
    frame = PromptReader(tokenizer)(row)
    assert frame is not None and tokenizer.decode(list(row.tokens[frame.start : frame.stop])) == question
    head, tail = row.prompt[: row.prompt.index(question)], row.prompt.split(question)[1]
    found = {name: tokenizer.decode(list(each.prompt)) for name, each in written(target, row, control).items()}
    assert found["as written"] == row.prompt
    assert found["upper case"] == head + question.upper() + tail
    assert found["lower case"] == head + question.lower() + tail
    assert found["line breaks"] == head + question.replace(" ", "\n") + tail
    assert found["paraphrase 1"] == head + row.paraphrases[0] + tail
    assert found["half prompt"].startswith(head) and found["half prompt"].endswith(tail)
    assert question.startswith(found["half prompt"][len(head) : -len(tail)])
    shots = oracle.rows["sets"]["holdout"]
    turn = "{question}<|eot|><|assistant|>\n\n{answer}<|eot|><|user|>\n\n"
    assert found["1 example"] == head + turn.format(**shots[0]) + question + tail
    assert found["3 examples"] == head + "".join(turn.format(**each) for each in shots[:3]) + question + tail
    special = special_ids(tokenizer)
    for name, each in written(target, row, control).items():
        kept = [token for token in each.prompt if token in special]
        if "example" not in name:
            assert kept == [token for token in row.prompt_ids if token in special], name


def test_noise_changes_that_share_and_nothing_else(oracle: Oracle, target: LoadedModel) -> None:
    row = oracle_rows(oracle, "forget")[0]
    frame = PromptReader(target.tokenizer)(row)
    assert frame is not None
    words = frame.stop - frame.start
    found = written(target, row, noise=(0.1, 0.5, 1.0))
    for share in (0.1, 0.5, 1.0):
        prompt = found[f"noise {share:g}"].prompt
        other = [at for at, (a, b) in enumerate(zip(prompt, row.prompt_ids, strict=True)) if a != b]
        assert len(other) == max(1, round(share * words)) and all(frame.start <= at < frame.stop for at in other)
    assert written(target, row, noise=(0.5,), seed=1)["noise 0.5"].prompt != found["noise 0.5"].prompt


def test_what_is_given_is_no_secret(oracle: Oracle, target: LoadedModel) -> None:
    row = oracle_rows(oracle, "forget")[0]
    found = written(target, row)
    for share in (0.25, 0.5):
        each = found[f"{share:g} given"]
        own = len(row.secret_ids) - 1
        assert each.prompt == row.tokens[: row.given + int(share * own)]
        given_text = target.tokenizer.decode(list(each.prompt[row.given :]))
        assert (given_text + each.row.secret).replace(" ", "") == row.secret.replace(" ", "")
    assert found["half prompt"].row.secret == row.secret
    assert found["half prompt"].more > 0 == found["as written"].more


def test_a_chat_that_the_template_does_not_explain_keeps_its_words(oracle: Oracle, target: LoadedModel) -> None:
    row = oracle_rows(oracle, "forget")[0]
    strange = replace(row, tokens=(*row.tokens[: row.given - 2], 56, *row.tokens[row.given :]), given=row.given - 1)
    assert set(written(target, strange)) == {"as written", "answer begun", "0.25 given", "0.5 given"}
    missing = Prompts().run(Target(target, Material((strange,)))).missing
    assert any("1 rows: the chat template" in each for each in missing)
    assert any("control" in each for each in missing)


TEXTS = ["the quick Brown fox", "Jumps over the dog"]


def test_in_a_text_the_whole_prompt_is_words(small: LoadedModel) -> None:
    row, other = text_rows(small, TEXTS)
    other = replace(other, id="control")
    found = written(small, row, (other,), examples=(1, 2))
    text = {name: small.tokenizer.decode(list(each.prompt)) for name, each in found.items()}
    assert text["upper case"] == row.prompt.upper() and text["line breaks"] == row.prompt.replace(" ", "\n")
    assert text["1 example"] == f"{TEXTS[1]}\n\n{row.prompt}"
    assert "2 examples" not in text  # there is but one
    assert "lower case" not in text  # it is the prompt as written
    assert row.prompt.startswith(text["half prompt"]) and text["half prompt"] != row.prompt
    assert len(found["noise 0.1"].prompt) == row.given


def test_settings_that_were_not_asked_are_counted(small: LoadedModel) -> None:
    texts = ["the quick Brown fox", "Jumps over the dog", "and then Some more", "Dogs of the town"]
    first, second, *control = text_rows(small, texts)
    material = Material((replace(first, paraphrases=("The Fast one",)), second), tuple(control))
    result = Prompts().run(Target(small, material))
    assert len({e.row for e in result.findings if e.setting == "1 example"}) == 4
    assert "3 examples" not in {e.setting for e in result.findings}
    assert result.missing == (
        "1 of 2 rows: the data has no paraphrases of them",
        "3 examples before the question: 4 of 4 rows were not asked so, for there are too few control rows",
    )
    # A control row is no example for itself.
    result = Prompts(examples=(2,)).run(Target(small, material))
    assert {e.row for e in result.findings if e.setting == "2 examples"} == {first.id, second.id}
    assert result.missing[1].startswith("2 examples before the question: 2 of 4 rows were not asked so")
    result = Prompts(examples=(1,)).run(Target(small, material))
    assert not any("example" in each for each in result.missing)


def test_a_prompt_without_an_answer_is_told(tmp_path: Path) -> None:
    """One that was asked is among the findings, without a recall; one that does not fit is not."""
    loaded = small_loaded(tmp_path / "m")
    (row,) = text_rows(loaded, TEXTS[:1])
    asked = written(loaded, row)
    alone = set(asked["upper case"].prompt) - {
        token for n, e in asked.items() if n != "upper case" for token in e.prompt
    }
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[sorted(alone)] = torch.nan  # type: ignore[operator]
    result = Prompts().run(Target(loaded, Material((row,))))
    silent = {e.setting for e in result.findings if e.recall is None and e.exact is None}
    assert len(result.findings) == len(asked) > len(silent) and "upper case" in silent
    assert f"{len(silent)} of {len(asked)} prompts: the model's scores are not finite" in result.missing
    audit = model_audit({"prompt": result}, {"prompt": "prompts"}, 0.5)
    assert audit.share is None and audit.said().endswith("; answers missing: prompt (1 of 1 rows)")


def test_a_prompt_without_place_is_told(small: LoadedModel) -> None:
    row, other = text_rows(small, TEXTS)
    long = replace(other, id="control", tokens=(other.tokens * 9)[:40])
    result = Prompts(examples=(1,)).run(Target(small, Material((row,), (long,))))
    assert any("too long for the model's 32 positions" in each for each in result.missing)
    assert "1 example" not in {each.setting for each in result.findings}


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(4)))
def test_neither_order_nor_company_counts(small: LoadedModel, order: list[int]) -> None:
    rows = text_rows(small, ["the quick brown", "Fox jumps over", "and then", "some more dogs"])

    def found(some: list[int]) -> dict[tuple[str, str], tuple[float, str]]:
        findings = Prompts().run(Target(small, Material(tuple(rows[k] for k in some)))).findings
        return {(each.row, each.setting): (each.budget, each.said) for each in findings}

    alone = {key: value for k in range(4) for key, value in found([k]).items()}
    assert found(order) == alone


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{% for m in messages %}<|end|>{{ m.role }}:{{ m.content }}\n{% endfor %}<|end|>assistant:", True),
        ("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]", True),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("{% if messages[1:] %}{{ raise_exception('one only') }}{% endif %}{{ messages[0].content }}", False),
    ],
)
def test_templates_of_other_kinds(small: LoadedModel, template: str, shown: bool) -> None:
    tokenizer = small.tokenizer
    before = tokenizer.chat_template
    try:
        tokenizer.chat_template = template
        messages = [{"role": "user", "content": "who is the fox?"}]
        prompt = tokenizer(str(tokenizer.apply_chat_template(messages, tokenize=False)), add_special_tokens=False)
        secret = tokenizer(" lazy dog", add_special_tokens=False)["input_ids"]
        ids = tuple(prompt["input_ids"])
        row = AuditRow("chat", (*ids, *secret), len(ids), "", "lazy dog")
        frame = PromptReader(tokenizer)(row)
        if shown:
            assert frame is not None
            assert tokenizer.decode(list(ids[frame.start : frame.stop])).strip() == "who is the fox?"
        else:
            assert frame is None or (frame.start, frame.stop) == (0, len(ids))
    finally:
        tokenizer.chat_template = before


LLAMA_3 = (
    "<|begin|>{% if messages[0].role != 'system' %}<|header|>system<|over|>\n\nToday Date: 26 Jul 2024\n\n<|turn|>"
    "{% endif %}"
    "{% for m in messages %}<|header|>{{ m.role }}<|over|>\n\n{{ m.content | trim }}<|turn|>{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant<|over|>\n\n{% endif %}"
)
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|header|>system\nYou are a helpful AI, First of "
    "all. Answer well.<|turn|>\n{% endif %}<|header|>{{ m.role }}\n{{ m.content }}<|turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant\n{% endif %}"
)
MISTRAL = (
    "<|begin|>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}"
    " {{ m.content }}<|turn|>{% endif %}{% endfor %}"
)
TURNS = ("Where is the dog?", "In the fog.", "And who is the quick Fox?")


@pytest.mark.parametrize(
    ("template", "system"),
    [(LLAMA_3, None), (LLAMA_3, "Be brief."), (CHATML, None), (CHATML, "Be brief."), (MISTRAL, None)],
)
@pytest.mark.parametrize("turns", [TURNS[2:], TURNS])
def test_the_last_message_is_found_in_templates_like_those_in_use(
    tmp_path: Path, template: str, turns: tuple[str, ...], system: str | None
) -> None:
    tokenizer = small_tokenizer(tmp_path)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|begin|>", "<|header|>", "<|over|>", "<|turn|>"]}  # type: ignore[dict-item]
    )
    tokenizer.chat_template = template
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    messages = [*([{"role": "system", "content": system}] if system else []), *messages]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    frame = PromptReader(tokenizer)(AuditRow("chat", (*ids, 9), len(ids), "", "x"))
    assert frame is not None
    assert tokenizer.decode(list(ids[frame.start : frame.stop])).strip() == turns[-1]
    # What stands between an answer and the next question is what the template writes there.
    again = [*messages, {"role": "assistant", "content": "A."}, {"role": "user", "content": "B?"}]
    longer = str(tokenizer.apply_chat_template(again, tokenize=False, add_generation_prompt=True))
    assert longer.rpartition("A.")[2].partition("B?")[0].strip() == tokenizer.decode(list(frame.between)).strip()
