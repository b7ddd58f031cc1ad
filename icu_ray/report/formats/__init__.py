"""The report as page, Markdown, LaTeX and CSV.

One file a form: `page.py` (report.html), `markdown.py`, `latex.py`, `csv_tables.py`, and `record_page.py`, the record
of one deletion request. `model_card.py` is the card of a model that is published, `open_unlearning.py` writes and reads
that framework's evaluation files. `templates.py` fills the pages' templates; `wording.py`, `audit_words.py` and
`glossary.py` are the words that the forms share.
"""
