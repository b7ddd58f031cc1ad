"""The kinds of task: what each asks of a model, how a model answers it, how answers become scores.

- classification.py: log-likelihoods of continuations; dialogue.py: generation; perplexity.py: of whole texts
- known_answers.py: rows of the field's benchmarks, by one teacher-forced forward, and greedy answers
- harness.py: tasks of lm-evaluation-harness as requests; harness_scores.py: answers as its scores
- without_code.py: how the harness reads a task's file without running code from it
"""
