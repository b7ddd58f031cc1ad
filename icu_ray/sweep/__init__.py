"""The main job: a config becomes trials on a cluster, and their results one table. `python -m icu_ray.sweep`.

Read in this order:

    __main__, run         the command; a sweep from its plan to its report
    driver, lease         what makes a process the one driver of a sweep: lease, beat, signals
    trials                wires the components below and runs the trials
    prepare               what the trials share, made once, in which order; prepare_tasks: the work itself, on Ray
    trial_queue           which trial Ray Tune gets next; search: a queue whose trials a searcher chooses
    trial_events          what the queue tells; running_trials: who is told, and whether a trial that died goes on
    evaluation            models evaluated beside the trials; evaluation_rounds: one round, and what it may take;
                          trial_evaluation: one trial's models and files
    prometheus_metrics    what an operator's Prometheus sees
    submit                the same command on another cluster; upload: what travels there; job_list: what runs there

The package must not know DeepSpeed or MLflow; training and tracking speak to them.
"""
