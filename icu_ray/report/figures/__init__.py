"""The figures of a report, in one look."""
