"""Texts, from their source to rows of tokens, and each target's nearest neighbour.

    check = check_data(config); corpus = load_corpus(config)      # sources.py

In the order of a text's way: `sources.py` is the front of the three sources `synthetic.py`, `records.py` (a user's
own; `forms.py` reads their rows) and `extraction.py` (the benchmark; `fetch.py` gets it, `vocabulary.py` decodes it).
`examples.py` and `corpus.py` are the values they give. `tokens.py` makes rows of one model's vocabulary, `prompts.py`
those with a prompt, and `chats.py` writes chats out by the model's own template. `pairing.py` finds each
target's nearest neighbour, by `embedding.py` (with the encoder that `encoder.py` finds) and `neighbours.py`; these
two and the pairing itself run on Ray Data, the rest needs no Ray. This package must not know models nor methods: a
tokenizer comes as an argument.
"""
