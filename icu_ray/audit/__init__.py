"""Is what was unlearned really gone? Attacks on a model, row by row, and the worst of them as a verdict.

Read in this order: findings.py (what an attack leaves), rows.py (what is attacked, and with what), attack.py (what an
attack is), recite.py (what a model says of a row), asking.py (that, and its loss, of all rows), and a file for each
attack in attacks/. plain_sentences.py and entailment.py are for one attack each.

An attack knows one loaded model and no files, no Ray and no trial.
"""
