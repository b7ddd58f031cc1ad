"""Causal language models of any family: found, loaded, and named by content.

    loaded = load_model("EleutherAI/gpt-neo-125m")      # loading.py

`loading.py` first: a hub id, a folder or a GGUF file (`gguf_files.py`) becomes a model and its tokenizer; `hub.py`
fetches by commit, and `folders.py` is what a model's or an adapter's files tell. `adapters.py` puts a LoRA adapter into
a model, and merges one. `checking.py` asks of a plan's models, and by `encoders.py` of its encoders, what can be told
before anything starts, and by `retrained.py` whether a published retrained model is of the same kind as the target;
`architecture.py` is what a model's configuration tells. `hidden.py` splits a model where losses and probes need it:
last hidden states on one side, output matrix on the other. `subjects.py` is a model that is asked from outside, by the
evaluation or an audit.
`reference.py` is the frozen original of equation (4), which `reference_reading.py` runs over rows and of which
`reference_batch.py` is a batch's part, and `fingerprints.py` what decides a model in a trial's identity
(`content_hashes.py` reads the files). This package must not know methods, training or Ray.
"""
