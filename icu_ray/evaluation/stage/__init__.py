"""Models x tasks through a pool of Ray Data actors, and what is kept of it in the store.

Read `run.py` first: what is missing is cut into slices and sent. `actors.py` hold the models, `answers.py` is a loaded
model's answer to a slice, and `results.py` keeps what was evaluated.
"""
