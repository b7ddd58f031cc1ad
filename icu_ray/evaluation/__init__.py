"""What a model still can do: tasks asked of models by Ray Data actors, each answer kept in the store.

    sources = open_tasks(tasks_of(["lm_eval"], []), Options(mirror=Path("mirror")))
    evaluations = evaluate_models([Subject("before", folder, hash)], sources, store)

In the order to read:

1. `model_requests.py`: the plain values that travel: a request, how it is measured, its answer, a slice of them.
2. `task.py`: a task is requests for any model, and scores from its answers.
3. `suites.py`: which tasks a suite has, and a task by its name; `sweep_tasks.py`: those that a sweep's config names.
   `definition.py` finds its YAML file: in `tasks/` (ours), in the harness, or a user's own; `groups.py` the tasks of a
   group, and their mean.
4. `rows/`: the documents. `read_mirror.py` reads public data from a local mirror and `write_mirror.py` fetches one;
   `quick_world.py` makes documents of the quickstart's synthetic records.
5. `kinds/`: the task's side and the model's side of each kind: `classification.py` (log-likelihoods of candidates),
   `dialogue.py` (generation), `perplexity.py`, `harness.py` with `harness_scores.py` (lm-evaluation-harness).
6. `benchmarks/`: the field's benchmarks of unlearning as data: their rows, prompts and what they report.
7. `ratings/`: a GPT judge or people rate continuations, by commands of their own.
8. `stage/`: `run.py` sends what is missing through the `actors.py`, who answer by `answers.py`; `results.py` keeps
   finished evaluations.

`tasks/authors.py` and `texts.py` are named in the store's keys by their content: a change in them, be it a comment,
has every task of suite `icu` evaluated anew.

This package must not know the epochs of a trial. Only `stage/` knows Ray; naming tasks imports neither torch nor
lm-eval.
"""
