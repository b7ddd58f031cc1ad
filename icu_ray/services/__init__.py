"""What stands behind one command each and needs no sweep: probe, evaluate, audit, score, doctor.

    probe_files("my-model", Path("forget.jsonl"))      # probe.py

`probe.py` (MA and EL of a model on a file), `evaluate.py` (models through suites), `audit.py` (attacks on models; both
ask what `asked_models.py` finds), `score.py` (the table that s_z and s_m are counted from), `doctor.py` (whether a
sweep would run here). They refuse what can be refused before anything heavy is loaded, and print nothing. They must
not know trials nor sweeps.
"""
