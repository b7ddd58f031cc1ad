"""What a sweep leaves and finds again: files by path or URL, shared artefacts, and the values in them.

    paths = TrialPaths.of("./runs", "quickstart", trial_id); result = read_result(paths)      # trial_files.py

From the ground: `files.py` and `folders.py` (one file, a whole folder; local or s3://, gs://), `retry.py` (a storage
that is away for a while), `processes.py` (who made a file, and whether he lives), `store.py` (artefacts under the hash
of what made them), `results.py` (the values), `flat.py` (nested ones as one level of keys), `provenance.py` (which
code made them), `trial_files.py` (which file holds which value), `thresholds.py`, `verdict_parts.py`, `verdict.py` (the
answer about an unlearned model, in parts and whole). Storage is the truth; MLflow and reports are views of
it. No Ray, no torch.
"""
