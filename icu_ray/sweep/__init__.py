"""The main job: a config becomes trials on a cluster, and their results one table. `python -m icu_ray.sweep`.

Read in this order:

- __main__.py: the command; run.py: a sweep from its plan to its report
- driver.py, lease.py: what makes a process the one driver of a sweep: lease, beat, signals
- trials.py: wires the components below and runs the trials
- prepare.py: what the trials share, made once, in which order; prepare_models.py: the models among it that are trained;
  prepare_answers.py: second answers; prepare_tasks.py: the work itself, on Ray; prepared.py: what trials get of it
- trial_queue.py: which trial Ray Tune gets next; search.py: a queue whose trials a searcher chooses
- trial_durations.py: how long the trials take, learnt while they run
- trial_events.py: what the queue tells; running_trials.py: who is told, and whether a trial that died goes on
- beside.py: what asks the models of finished trials beside those that run; rounds.py: one round, and what it may take;
  evaluation.py, audit.py: the two that do; trial_evaluation.py, trial_audit.py: one trial's models and files;
  retrained_measures.py: what the retrained model beside a trial tells
- prometheus_metrics.py: what an operator's Prometheus sees
- submit.py: the same command on another cluster; upload.py: what travels there; job_list.py: what runs there

The package must not know DeepSpeed or MLflow; training and tracking speak to them.
"""
