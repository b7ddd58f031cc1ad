"""Causal language models of any family: found, loaded, named by content, and read at one seam.

    loaded = load_model("EleutherAI/gpt-neo-125m")      # loading.py

`loading.py` first: a hub id or a folder becomes a model and its tokenizer; `hub.py` fetches by commit. `hidden.py` is
the seam that losses and probes use: last hidden states below, output matrix above. `reference.py` is the frozen
original of equation (4), and `fingerprints.py` what decides a model in a trial's identity. This room must not know
methods, training or Ray.
"""
