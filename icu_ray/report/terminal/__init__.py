"""What the terminal shows: the plan, the live view, the status.

One file a view: `plan_table.py` (before a sweep; `memory_table.py`: what its models need), `live.py` (while it runs
here), `status.py` (from another terminal), `summary_tables.py` (at its end; `closing_lines.py`: of audit and
benchmarks), `difference_tables.py` (two sweeps side by side). `fitting.py` leaves out the columns for which a terminal
has no room.
"""
