"""The report as page, Markdown, LaTeX and CSV."""
