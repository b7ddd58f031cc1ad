"""Where the documents of tasks come from: a mirror of public data, or the quickstart's made-up records.

- read_mirror.py, write_mirror.py: a folder of public data: reading it, and fetching it on a machine with a network
- quick_world.py: questions about made-up records that a stand-in has never read
"""
