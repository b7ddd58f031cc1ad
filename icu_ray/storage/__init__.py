"""What a sweep leaves and finds again: files by path or URL, shared artefacts, and the values in them.

    paths = TrialPaths.of("./runs", "quickstart", trial_id); result = read_result(paths)      # trial_files.py

From the ground:

- files.py, folders.py: one file, a whole folder; local or s3://, gs://
- retry.py: a storage that is away for a while; processes.py: who made a file, and whether that process lives
- store.py: artefacts under the hash of what made them; leftovers.py: what a killed run left, and taking it away
- results.py: the values; values.py reads them, checked; flat.py: nested ones as one level of keys; el_names.py: EL by
  its n; provenance.py: which code, packages and data made them; code_version.py: the code's commit
- trial_files.py: which file holds which value; csv_files.py: tables that a spreadsheet may open
- imported.py: what another framework measured, as a value; imported_files.py: where it lies
- audits.py: what attacks found on a trial's models; audit_files.py: where it lies
- epoch_evaluations.py: what was evaluated of the model after an epoch; epoch_files.py: where it and these models lie
- thresholds.py, verdict_parts.py, verdict.py: the answer about an unlearned model, in parts and whole

Storage is the truth; MLflow and reports are views of it. No Ray, no torch.
"""
