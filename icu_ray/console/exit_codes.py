"""What a command ends with: its own exit code, or that of the exception that ended it, said in one line.

    sys.exit(exit_code("icu-ray", lambda: run(arguments)))

2 the input was refused, or the output cannot be written; 130 interrupted. Any other exception is a defect and keeps its
traceback. A reader that has left (head, less) is no failure of what has been done by then. What is said is said without
secrets.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from icu_ray.console.redirect import lasting
from icu_ray.console.terminal import fitted, width
from icu_ray.errors import UserError, refusal, without_secrets


def exit_code(name: str, run: Callable[[], int]) -> int:
    """Of `run`. name: of the command, before what is said of an error."""
    _open_streams()
    said, code = "", 0
    lost: OSError | None = None
    try:
        code = run()
    except UserError as error:
        said, code = str(error), 2
    except KeyboardInterrupt:
        said, code = "interrupted", 130
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # rich makes this of a reader that has left
            raise
    except OSError as error:
        if (refused := refusal(error)) is not None:
            said, code = refused, 2
        elif (lost := _lost_output("\n")) is None:
            raise
    lost = lost or _lost_output()
    if lost is not None and not isinstance(lost, BrokenPipeError):
        why = "is closed" if lost.errno == errno.EBADF else f"cannot be written ({lost.strerror})"
        said, code = said or f"standard output {why}: nothing could be printed", code or 2
    if said:
        sys.stderr.write(fitted(f"{name}: {without_secrets(said)}", width(sys.stderr)) + "\n")
    return code


def _open_streams() -> None:
    """Give a command that was started without them its three streams, and one for errors that outlives its reader.

    A file that is opened later would otherwise get a closed one's number, and then all that is printed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Output that cannot be printed is told (`_lost_output`), messages and input that are not there are not.
            opened = os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = lasting(2, closefd=False)


def _lost_output(more: str = "") -> OSError | None:
    """Why what was printed, and `more`, cannot be written; it is thrown away then, and not tried again.

    more: to find out where a write has failed already, after which the stream forgets what it could not write.
    """
    try:
        sys.stdout.write(more)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None
