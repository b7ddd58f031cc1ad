"""Deletion requests: one model forgets the texts of one file; or many files over time, by a ledger.

    done = unlearn("my-model", forget="my.jsonl", retain="others.jsonl", out="unlearned")      # unlearn.py

Read `unlearn.py` first: a sweep runs a config of one trial, so that a request resumes, is checked and leaves its
results like any trial. Then, in the order of a request:

1. `request_config.py` makes that config. `files.py` says how the rows of the files are written, and `row_length.py` how
   long a row must be. `wording.py` turns errors into the words of who asked: `--retain` for `data.pool`.
2. `record.py` is the record that is filed; `recheck.py` makes it, and asks the models once more for it.
3. `subjects.py` answers for each person whose data the texts are; `next_try.py` says what to try after a failure.

Requests over time (`icu-ray requests`), each of which runs the above:

4. `ledger.py` is the chain of entries, `ledger_state.py` what they come to: requests, attempts, versions.
5. `ledger_settings.py` makes a ledger (`ledger_keys.py`: config keys that it sets itself), `ledger_texts.py` takes
   requests in and proves texts by keyed hashes.
6. `run_requests.py` carries them out: `runner.py` lets one process do so, `judging.py` says what is done, for which
   `regression.py` asks texts again, `ending.py` ends an attempt once all that was asked for is carried out,
   `versions.py` keeps the models, `evidence.py` leaves records and pages, `bundle.py` packs them, `registering.py`
   tells MLflow.
7. `undo.py` takes a request back, `purge.py` deletes texts and with them versions that still know them (`deleting.py`,
   `old_versions.py`; `unreached.py`: what it could not), `verify_ledger.py` checks all of it.

This package knows no Ray and no training: `sweep` does.
"""
