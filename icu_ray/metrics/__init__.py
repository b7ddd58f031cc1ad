"""Measures: of a model on rows of tokens, of texts against references, of a table of methods, of raters.

Read in this order:

- probe.py: forget loss, MA and EL of a forget sample, from one forward and
  greedy_decoding.py (what follows every prefix), extraction_likelihood.py (counting n-grams of it)
- answer_scores.py: one forward a row for the measures of the unlearning field, of which
  answers.py has probability, truth ratio, exact memorisation and extraction strength, membership.py the attacks and
  what they tell, forget_quality.py TOFU's two numbers. rouge.py: greedy answers against the true ones.
  sure_tokens.py: how such an answer begins for sure. conventions.py: the choices in which implementations differ
- generation.py, beam_search.py: the candidates that the refinement filter judges; sampling.py: drawn continuations
- kv_cache.py, prefixed.py: the key/value caches that make both quick, without a copy of a shared prefix;
  row_trees.py: rows that begin alike in one forward
- bertscore.py, overlap.py: candidates against references; BLEU, entropy. perplexity.py: held-out rows
- scores.py: s_z and s_m of a table. agreement.py: raters and correlations

Plain functions of models, arrays and texts. The package must not know Ray, MLflow or what storage holds.
"""
