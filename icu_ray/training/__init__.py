"""The epochs of one trial under DeepSpeed: train, measure, refine, stop. Also the training of models that
are to know the texts first.

Read in this order:

- loop.py: `run_trial`, the loop over epochs: train, measure, refine, report, maybe stop
- epoch.py: one epoch of training, one measurement; batches.py: which rows make which batch on which rank
- refinement.py: which targets are forgotten, and when to stop (section IV-D); validation.py: what is measured
- step_rules.py: steps of more than one gradient (`methods.N.step`)
- schedules.py: the learning rate of each step; weight_decay.py: which weights decay
- best_epoch.py: which epoch's model a trial leaves (`stop.keep`)
- records.py: what goes in and what comes out, as values; checkpoints.py: a trial's state in a folder
- engine.py: DeepSpeed, known here alone; engine_settings.py: what it is told; partitioned.py: weights that ZeRO stage 3
  divides among ranks; offload.py: its Adam for main memory, compiled
- checkpoint_files.py: what its checkpoints hold, and how they are read without running code
- finetuning.py: models that learn the texts before anything is unlearned; trained_epochs.py: for how long
- preloading.py: what processes that train import, for the one that they are forked from
- standin_models.py, standins.py, muon.py: small models made and trained here until they know the samples

The package must not know Ray, Tune or MLflow: who calls it decides where its reports and checkpoints go.
"""
