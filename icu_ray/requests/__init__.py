"""Deletion requests: one model forgets the texts of one file.

    done = unlearn("my-model", forget="my.jsonl", retain="others.jsonl", out="unlearned")      # unlearn.py

Read `unlearn.py` first: a sweep runs a config of one trial, so that a request resumes, is checked and leaves its
results like any trial. Then, in the order of a request:

1. `request_config.py` makes that config. `files.py` says how the rows of the files are written, and `row_length.py` how
   long a row must be. `wording.py` turns errors into the words of who asked: `--retain` for `data.pool`.
2. `record.py` is the record that is filed; `recheck.py` makes it, and asks the models once more for it.
3. `subjects.py` answers for each person whose data the texts are; `next_try.py` says what to try after a failure.

This package knows no Ray and no training: `sweep` does.
"""
