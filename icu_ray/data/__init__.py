"""Texts, from their source to rows of tokens, and each target's pair.

    check = check_data(config); corpus = load_corpus(config)      # sources.py

In the order of a text's way:

1. `sources.py` is the front of the three sources: `synthetic.py` (made up; `synthetic_questions.py` and
   `invented_facts.py` belong to it), `records.py` (a user's own) and `extraction.py` (the benchmark; `fetch.py` gets
   it, `vocabulary.py` decodes it). Of a user's own, `table_files.py` reads the files, and `forms.py` the rows;
   `hub_data.py` finds the files of the hub's data sets, by their cards (`hub_cards.py`) and in their repository
   (`hub_repository.py`). `benchmark_files.py` says how to get those of the field's benchmarks. `training_texts.py`
   reads what a model is fine-tuned on from a file of its own, `text_pieces.py` cuts long texts. `record_table.py` and
   `text_columns.py` hold millions of rows. `examples.py` and `corpus.py` are the values that a source gives.
2. `tokens.py` makes rows of one model's vocabulary, `prompts.py` those with a prompt, and `chats.py` writes chats out
   by the model's own template. `prompt_styles.py` makes the rows on which the field's measures are taken. They share
   `specials.py` (what a tokenizer adds around a text), `long_texts.py` (texts longer than a row), `padding.py` (rows of
   one width) and `positions.py` (where a token stands in such a row).
3. `pairing.py` finds each target's nearest neighbour, by `embedding.py` (with the encoder that `encoder.py` finds) and
   `neighbours.py`. These two and the pairing itself run on Ray Data, the rest needs no Ray; `actor_pool.py` is for
   those above who ask models on Ray Data. Pairs that are no
   neighbours are drawn (`pair_draws.py`) or chosen by the user (`chosen_pairs.py`).
4. `second_answers.py` writes other answers to the targets' prompts: a row's own, the sentences of `ignorance.py`, or
   what a model invents, which `alternates.py` asks for and cuts. `paraphrases.py` reads their prompts in other words.

This package must not know models nor methods: a tokenizer comes as an argument.
"""
