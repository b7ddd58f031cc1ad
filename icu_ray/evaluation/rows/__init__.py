"""Where the documents of tasks come from: a mirror of public data, or the quickstart's made-up records."""
