"""Does one text entail another? By a natural language inference (NLI) model from a folder or the hub.

nli = load_entailment("./my-nli-model")
nli.entailed(["Ada lives in Rome, near the river."], "Ada lives in Rome.")     # the set of those that do
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icu_ray.errors import UserError, explained
from icu_ray.models.hub import commit_of

TEXTS_AT_ONCE = 32


@dataclass(frozen=True)
class Entailment:
    """A classifier of pairs (premise, hypothesis) on the CPU, its tokenizer, and the label that means entailment."""

    model: Any
    tokenizer: Any
    label: int

    def entailed(self, premises: Sequence[str], hypothesis: str) -> set[str]:
        """Those premises for which entailment is the most probable label."""
        import torch

        found: set[str] = set()
        # Of like length together; pads are masked.
        distinct = sorted(set(premises), key=lambda text: (len(text), text))
        for begin in range(0, len(distinct), TEXTS_AT_ONCE):
            some = distinct[begin : begin + TEXTS_AT_ONCE]
            pairs = self.tokenizer(some, [hypothesis] * len(some), padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                best = self.model(**pairs).logits.argmax(-1).tolist()
            found |= {text for text, label in zip(some, best, strict=True) if label == self.label}
        return found


def load_entailment(source: str) -> Entailment:
    """UserError where it cannot be read, or none of its labels is called entailment."""
    with explained(f"NLI model {source}"):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        # That of the hub at the commit by which its answers are kept.
        commit = commit_of(source) or "main"
        tokenizer = AutoTokenizer.from_pretrained(source, revision=commit)
        model = AutoModelForSequenceClassification.from_pretrained(source, revision=commit).eval()
    labels = {name.casefold(): number for name, number in (model.config.label2id or {}).items()}
    label = next((number for name, number in labels.items() if name.startswith("entail")), None)
    if label is None:
        raise UserError(
            f"NLI model {source}: its labels are {', '.join(labels)}; expected a model with a label 'entailment'"
        )
    return Entailment(model, tokenizer, int(label))
