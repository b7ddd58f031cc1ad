"""The figures of a report, in one look.

Read `pictures.py` first: which figures a report's trials allow, with their words. `curves.py` draws the epochs,
`tradeoff.py` forgetting against utility, `case_study.py` single texts before and after. `theme.py` is their look.
"""
