"""Is what was unlearned really gone? Attacks on a model, row by row, and the worst of them as a verdict.

Read in this order: findings.py (what an attack leaves), rows.py (what is attacked, and with what), attack.py (what an
attack is), recite.py (what a model says of a row), asking.py (that, and its loss, of all rows), beside.py (the models
beside it), and a file for each attack in attacks/, which registry.py makes by name. For one attack each: asked.py finds
the words in a prompt that may be rewritten, patching.py puts one model's states into another, plain_sentences.py is
text about nothing in particular, and entailment.py asks whether one text follows from another. jobs.py is an attack as
it travels to the Ray Data actors of stage.py, and verdict.py counts what came back.

An attack knows one loaded model and no files, no Ray and no trial.
"""
