"""The one exception for what a user can mend, and the words to say it with.

Everything that is refused before work starts raises `UserError`; the command line prints its message without a
traceback and leaves with exit code 2. Any other exception is a defect and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: the message names the file or key, what was found and what was expected."""


_MENDABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
}


def refusal(error: OSError) -> str | None:
    """What to tell a user whose system refuses a file (forbidden, full, a folder, too long a name); None: a defect."""
    if error.errno not in _MENDABLE or error.filename is None:
        return None
    name = str(error.filename)
    taken = error.errno == errno.EEXIST
    said = "a file, or a link to nothing, stands where a folder is expected" if taken else error.strerror
    return f"{name if len(name) < 200 else name[:200] + '...'}: {said}"


class ClusterError(UserError):
    """Ray does not start or answer, or is gone: nothing is wrong with the input, and another try may go well."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean 'x'?)' for the known word nearest to `word`, or '' when none is near."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""


def without_secrets(text: str) -> str:
    """An address, or a text that holds some, as it may be shown: without user, password and secret query values."""
    shown = re.sub(r"://[^\s'\"]*@", "://", text)  # up to the last @: a password may hold / and @ itself
    return re.sub(r"(?i)([?&][^=&\s]*(?:token|key|password|secret|sig)[^=&\s]*=)[^&\s'\"]+", r"\1...", shown)
