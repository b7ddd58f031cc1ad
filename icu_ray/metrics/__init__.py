"""What is measured of a model and its texts: memorisation, overlap, perplexity, scores."""
