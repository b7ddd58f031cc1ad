"""One trial on the cluster: a Tune trainable that starts a Ray Train worker group and keeps its files.

Read in this order:

- task.py: what a trial is told, and its results in storage
- artefacts.py: the store's keys of what it shares with others; artefact_making.py: how that is made;
  alternates.py: other answers that the model invents
- trainable.py: what Ray Tune runs: a worker group, whatever happens to it, and a result
- trainer.py: Ray Train's TorchTrainer with its controller in the same process
- worker.py: what runs on every worker: the epochs, and what they leave
- model_training.py: a model that is fine-tuned before any trial, by the same kind of worker group
- checkpoints.py: the newest whole one, and room for the next
- best_weights.py: the weights of the best epoch so far (`stop.keep=best`)
- saved_models.py: the folders of the unlearned model and of those after epochs (`evaluation.when=epochs`)
- out_of_memory.py: half the micro batch, once
- watchdog.py: looks after a worker group from a thread, and ends one that hangs

The package must not know the sweep: not the other trials, not who waits for this one.
"""
