"""MLflow: a view of what lies in storage. No other package talks to it.

Storage is the truth; whatever is sent here can be sent again, and a sweep goes on when the server is away.
Read in this order:

- tracker.py: the thread that keeps MLflow up to date while a sweep runs; which address is used
- sync.py: what is missing on the server, and in which order it is sent
- runs.py: experiment, parent run, child run, found by their tags or made
- metrics.py: records of storage as batches of metrics (pure)
- artifacts.py: files of a run
- read.py: a sweep as MLflow has it, for comparisons with one whose storage is gone
- registry.py: versions of a model that requests made, in MLflow's model registry; taking runs away
- views.py: descriptions and saved views that MLflow's pages show (pure)

The package reads storage only. It must not know training, Ray or a trial in the making.
"""
