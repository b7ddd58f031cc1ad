"""The words of a report, each in one or two sentences: the foot of its page, and docs/glossary.md (a test compares)."""

from __future__ import annotations

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("forget sample, target", "A forget sample is a set of texts to be forgotten. Each text in it is a target."),
    ("pool", "Texts like the targets that the model may keep."),
    (
        "pair",
        "The text that goes with a target in training, by default the most similar one of the pool. The model "
        "learns the pair while it forgets the target.",
    ),
    ("held-out texts", "Texts of the same kind that no training step uses. They show what else the model has lost."),
    (
        "MA (memorisation accuracy)",
        "The share of a text's tokens that are the model's first choice when it is given the true tokens before them. "
        "100 % means that it knows the text by heart.",
    ),
    (
        "EL (extraction likelihood)",
        "The model is given the beginning of a text and continues it. EL is the share of its n-grams (runs of n "
        "tokens) that the rest of the true text has too, averaged over beginnings of different lengths. EL10 has "
        "n = 10.",
    ),
    ("forget loss", "The model's loss per token on the targets. It rises as they are forgotten."),
    (
        "forgotten",
        "A forget sample counts as forgotten when the means of MA and EL over its texts are below their thresholds: "
        "those of the paper (59.94 % and 4.99 %), or the model's own means on held-out texts before unlearning.",
    ),
    (
        "filter",
        "The check after each epoch of which targets need no more training. The model continues each target's prefix; "
        "where that is unlike the true text by BERTScore or BLEU, the next epoch leaves the target out.",
    ),
    (
        "BERTScore, BLEU",
        "How alike two texts are: BERTScore compares meaning by the vectors of a BERT model, BLEU counts runs of equal "
        "words.",
    ),
    (
        "entropy",
        "How varied the tokens are that the model writes, in bits. A model that repeats itself has a low entropy.",
    ),
    (
        "perplexity (PPL), PPL ratio",
        "How unexpected a text is to the model; lower is better. The ratio is the perplexity of the held-out texts "
        "after unlearning, divided by that before: 1 means no damage.",
    ),
    (
        "α, β",
        "The weights of two losses: α of learning the pairs, β of staying close to the original model on the pairs.",
    ),
    (
        "cell",
        "One choice of α and β. A row of the results is one cell of one method, as a mean over forget samples, or over "
        "the seeds of a single one.",
    ),
    (
        "window",
        "A part of a text that is longer than a row. Windows overlap and cover the whole text, which is judged by "
        "its worst window.",
    ),
    ("trial", "One model, one forget sample, one method and one cell. A sweep is all trials of one config."),
    (
        "recipe",
        "Learning rate, schedule, number of epochs and the like of another paper or framework, set together by one "
        "key.",
    ),
    (
        "step rule",
        "How several gradients become one step of training: sharpness-aware (SAM), or rectified by the pairs' (GRU).",
    ),
    (
        "adapter (LoRA)",
        "Two small matrices beside each linear layer of a model. They are trained in place of the model's own weights, "
        "which stay as they are. Merging adds them to those weights.",
    ),
    (
        "stand-in",
        "A small model, trained for the sweep until it has memorised the targets. It shows that the machinery works, "
        "and says little about large models.",
    ),
    (
        "retrained",
        "The same model, trained in the same way without the texts to forget: the gold standard, what perfect "
        "unlearning would leave.",
    ),
    (
        "s_z, s_m",
        "One number for all columns of a table row. Each column is put on a common scale: for s_z by mean and standard "
        "deviation, for s_m by smallest and largest value. Then columns that should be high are added and those that "
        "should be low subtracted. They compare rows of one table only.",
    ),
)
"""(word, meaning), in an order in which each word stands before its use."""
