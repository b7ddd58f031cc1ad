"""What a command ends with: its own exit code, or that of the exception that ended it, said in one line.

    sys.exit(exit_code("icu-ray", lambda: run(arguments)))

2 the input was refused; 130 interrupted. Any other exception is a defect and keeps its traceback. What is said is said
without secrets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from icu_ray.errors import UserError, refusal, without_secrets


def exit_code(name: str, run: Callable[[], int]) -> int:
    """Of `run`. name: of the command, before what is said of an error."""
    try:
        return run()
    except UserError as error:
        said, code = str(error), 2
    except KeyboardInterrupt:
        said, code = "interrupted", 130
    except BrokenPipeError:
        # The reader of our output (head, less) has left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        refused = refusal(error)
        if refused is None:
            raise
        said, code = refused, 2
    sys.stderr.write(f"{name}: {without_secrets(said)}\n")
    return code
