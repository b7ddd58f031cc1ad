"""Where the documents of tasks come from: a mirror of public data, or the synthetic world of the quickstart."""
