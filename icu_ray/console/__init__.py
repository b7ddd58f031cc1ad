"""What people see of a running command: how far it is, how much it says, and how it ends.

    with listening(show): ...; told("embedding", 0.4)      # progress.py

Read `progress.py` first: long work reports its progress by it, without knowing who listens. `verbosity.py` is what a
command makes of that on a terminal, in a file, or not at all (`-q`, `-v`), and `terminal.py` how wide it may be.
`exit_codes.py` turns an exception into a line and an exit code, and `interrupts.py` sees that Ctrl-C is not lost.
`streaming.py` lets a remote task yield its reports, and `redirect.py` sends what others print to a file. This
package knows no other but errors.
"""
