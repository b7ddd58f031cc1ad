"""Deletion requests: one model forgets the texts of one file.

    done = unlearn("my-model", forget="my.jsonl", retain="others.jsonl", out="unlearned")      # unlearn.py

`unlearn.py` makes a config of one trial of it and has a sweep run it, so that a request resumes, is checked and leaves
its results like any trial. This package knows no Ray and no training: `sweep` does.
"""
