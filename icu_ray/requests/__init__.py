"""Deletion requests: one model forgets the texts of one file."""
