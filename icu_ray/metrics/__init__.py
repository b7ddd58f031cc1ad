"""What is measured of a model and its texts: memorisation, candidates, overlap, perplexity, scores."""
