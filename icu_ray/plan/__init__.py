"""What is to run, as frozen values: trials with their ids, what they take, and which starts next.

    plan = plan_config(find_config("table1"), dry_run=True)      # planning.py
    for trial in plan.trials: print(trial.trial_id, trial.name, trial.minutes)

In order: `planning.py` checks a config as a whole and refuses; `grid.py` expands it to a `Plan` of trials; `trial.py`
is one of them, its id a hash of what decides its result; `trial_settings.py` is what it is told. `own_files.py` finds
out how a user's file is written where nobody said it, `text_lengths.py` how long its texts are in a model's tokens,
`thresholds.py` below which numbers a trial has forgotten, `drawn_pairs.py` what random pairs take,
`epoch_models.py` what the evaluation of every epoch does,
`benchmark_prompts.py` whether models can be asked a benchmark's prompts, `paraphrases.py` how an audit rewords them and
`audit_checks.py` which of its attacks will measure nothing, `audit_cost.py` what they ask,
`method_checks.py` whether methods fit models and data, `generated_answers.py` what models invent for them.
`estimates.py` says how long it takes (`machine_speed.py`: how fast a core and a GPU are; `past_trials.py`: what trials
took that ended on this machine), `estimate_correction.py` corrects that by what has ended of the sweep,
`learnt_durations.py` by how the trials of a running one go, trial by trial. `time_beside.py` reckons fine-tuning before
the trials and evaluation beside them. `budget.py` says what it costs.
`memory.py` says what a worker holds, of a model whose size `model_shapes.py` tells by its config.json (`models_here.py`
finds that, or `known_models.py` knows it), `model_memory.py` asks it for the models of a plan.
`schedule.py` chooses what starts next on a cluster, `search_objective.py` is what a search maximises. No Ray, no torch:
a dry run takes a second.
"""
