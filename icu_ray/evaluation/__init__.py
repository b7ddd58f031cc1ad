"""What a model still can do: classification, dialogue and perplexity (Table I, right half), on Ray Data actors."""
