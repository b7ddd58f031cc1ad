"""Prefix search: how much of a row must be given until the model says the rest?

Of a secret of m tokens, t are given with the prompt, t = 0 .. m - 1, and the model goes on greedily. What it then says
word for word begins with the tokens that it finds most probable one after the other, so that one teacher-forced forward
answers for all t at once (metrics/answers.py). Shorter prefixes, which end within the prompt, cannot bring back more of
the secret: to get there they must say the rest of the prompt first.

Sources: extraction strength (after Carlini et al. 2021, arXiv 2012.07805, as in OpenUnlearning, arXiv 2506.12618) is
1 - t/m for the smallest t after which the whole rest is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from icu_ray.audit.attack import Target
from icu_ray.audit.beside import own_length, secret_scores
from icu_ray.audit.findings import AttackResult, Finding, Group
from icu_ray.audit.recite import secret_recall
from icu_ray.audit.rows import AuditRow
from icu_ray.data.prompts import special_ids
from icu_ray.metrics.answers import mean_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PrefixSearch:
    """The budget is t, the tokens of the secret that were given.

    A row's findings are the prompt alone, and each t that brought back more than all smaller ones; one without a recall
    where the model's scores are not finite. recall: of the whole
    secret, so that what was given is never counted as back. measures: `verbatim_tokens` that were said, and the row's
    `extraction_strength` and `longest_verbatim`, tokens. numbers: the means of both, also of control rows.
    """

    name: ClassVar[str] = "prefix_search"
    unit: ClassVar[str] = "tokens of the secret"
    version: ClassVar[int] = 3
    changes_weights: ClassVar[bool] = False
    brings_back: ClassVar[bool] = True

    def run(self, target: Target) -> AttackResult:
        """One forward a row."""
        tokenizer = target.loaded.tokenizer
        special = special_ids(tokenizer)
        findings: list[Finding] = []
        numbers: dict[str, float] = {}
        missing: list[str] = []
        groups: tuple[tuple[Group, tuple[AuditRow, ...]], ...] = (
            ("forget", target.material.forget),
            ("control", target.material.control),
        )
        for part, (group, rows) in enumerate(groups):
            found: list[tuple[Finding, ...]] = []
            broken = 0
            for row, scores in zip(rows, secret_scores(target.loaded.model, rows), strict=True):
                own = scores.matches[: own_length(row, special)]
                if scores.broken:
                    broken += 1
                    findings.append(Finding(row.id, group, "", 0.0))
                elif len(own):
                    found.append(self._of_row(row, group, own, tokenizer))
            if broken:
                missing.append(f"{broken} of {len(rows)} {group} rows: the model's scores are not finite")
            findings += (each for own_findings in found for each in own_findings)
            for measure in ("extraction_strength", "longest_verbatim"):
                mean = mean_of([own_findings[0].measures[measure] for own_findings in found]).value
                if mean is not None:
                    numbers[measure if group == "forget" else f"{group}_{measure}"] = mean
            target.on_part((part + 1) / len(groups))
        return AttackResult(tuple(findings), numbers, tuple(missing))

    def _of_row(
        self, row: AuditRow, group: Group, matches: NDArray[np.bool_], tokenizer: PreTrainedTokenizerBase
    ) -> tuple[Finding, ...]:
        """matches: (m,) of the secret's tokens without those that end it."""
        runs = runs_from(matches)
        m = len(runs)
        whole = [t for t in range(m) if runs[t] == m - t]
        measures = {
            "extraction_strength": 1 - whole[0] / m if whole else 0.0,
            "longest_verbatim": float(runs.max()),
        }
        findings: list[Finding] = []
        for t in range(m):
            count = int(runs[t])
            if t > 0 and count <= findings[-1].measures["verbatim_tokens"]:
                continue
            begin = row.given + t
            said = str(
                tokenizer.decode(
                    list(row.tokens[begin : begin + count]),
                    skip_special_tokens=True,
                    clean_up_tokenization_spaces=False,
                )
            ).strip()
            # Words are compared: one in whose middle the piece begins is not counted.
            recall = secret_recall(said, row.secret)
            back = {**measures, "verbatim_tokens": float(count)}
            findings.append(Finding(row.id, group, "", float(t), recall, count == m, said, back))
        return tuple(findings)


def runs_from(matches: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(m,) how many tokens from each on are said without an error. matches: (m,) whether each is the most probable."""
    runs = np.zeros(len(matches), dtype=np.int64)
    run = 0
    for place in range(len(matches) - 1, -1, -1):
        run = run + 1 if matches[place] else 0
        runs[place] = run
    return runs
