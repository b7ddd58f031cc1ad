"""What a sweep left in storage, as tables, figures and a page."""
