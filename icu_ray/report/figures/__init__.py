"""The figures of a report, in one look.

Read `pictures.py` first: which figures a report's trials allow, with their words. `curves.py` draws the
epochs, `epochs.py` every measure of them, `evaluated_epochs.py` what the evaluation measures after each, `tradeoff.py`
forgetting against utility, `benchmark_tradeoff.py` the same by a benchmark's measures, `audit.py` what attacks bring
back, `case_study.py` single texts before and after. `theme.py` is their look.
"""
