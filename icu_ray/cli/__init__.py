"""The command `icu-ray`, one file a sub-command: each reads its options, calls one package, and prints.

    code = main(["plan", "table1"])           # main.py

Read `main.py` first, which lists the sub-commands (`listing.py` is `icu-ray list`, `importing.py` is `icu-ray import`,
each other file is called as its command; `request_parts.py` carries out those of `icu-ray requests`), then
`command.py`, what they share. `add(commands)` of each file says its options, with an example. A sub-command imports its
package inside the function that runs it, so that `--help` and the Tab key answer at once. Nothing is decided here that
a call from Python would miss; no other package knows this one.
"""
