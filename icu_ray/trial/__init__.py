"""One trial on the cluster: a Tune trainable that starts a Ray Train worker group and keeps its files.

Read in this order:

    task                  what a trial is told, and its results in storage
    artefacts             the store's keys of what it shares with others; artefact_making: how that is made
    trainable             what Ray Tune runs: a worker group, whatever happens to it, and a result
    trainer               Ray Train's TorchTrainer with its controller in the same process
    worker                what runs on every worker: the epochs, and what they leave
    checkpoints           the newest whole one, and room for the next
    out_of_memory         half the micro batch, once
    watchdog              ends a worker group that hangs
    worker_pool           processes that have imported what training needs

The package must not know the sweep: not the other trials, not who waits for this one.
"""
