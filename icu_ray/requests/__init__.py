"""Deletion requests: one model forgets the texts of one file.

    done = unlearn("my-model", forget="my.jsonl", retain="others.jsonl", out="unlearned")      # unlearn.py

`request_config.py` makes a config of one trial of it and `unlearn.py` has a sweep run that, so that a request resumes,
is checked and leaves its results like any trial. This package knows no Ray and no training: `sweep` does.
"""
