"""The one exception for what a user can fix, and the words to say it with.

Everything that is refused before work starts raises `UserError`; the command line prints its message without a
traceback and leaves with exit code 2. Any other exception is a defect and keeps its traceback.

Secrets are found by patterns (`without_secrets`, the one place) and not by urllib.parse, which takes one whole,
well-formed address. What is shown is a library's text as a rule, with addresses in quotes or several in a line; of a
password with / or ? in it urllib finds no user at all, and of one with [ it raises.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import pickle
import re
from collections.abc import Iterable, Iterator


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
    said = "there is a file, or a link to nothing, where a folder is expected" if taken else error.strerror
    return f"{name if len(name) < 200 else name[:200] + '...'}: {said}"


MOST_CHARACTERS = 300
"""Of what a library says of a file; some of transformers' messages list all models there are."""


@contextlib.contextmanager
def explained(
    named: str,
    *,
    code: str = "read its .py files, and if you trust them set trust_remote_code (of a sweep's model) or "
    "--trust-remote-code",
    instead: str = "",
) -> Iterator[None]:
    """Whatever transformers raises for files that it cannot use becomes a UserError of one line.

    named: what it begins with. code: what to do about a folder with code of its own. instead: what may be given else.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of any kind: packages that are missing, strict fields, look-ups, errors of remote code
        said = " ".join(without_secrets(re.sub(r"\x1b\[[0-9;]*m", "", str(error))).split())
        if "trust_remote_code" in said:
            raise UserError(f"{named}: comes with its own code, which was not run; {code}") from error
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in said:
            # torch's own words are an advice to load it all the same.
            said = (
                "its weights are a pickle that is damaged or holds more than tensors, and nothing in it was run; "
                "give them as safetensors"
            )
        said = (said or repr(error)).removesuffix(".")
        if len(said) > MOST_CHARACTERS:
            said = said[:MOST_CHARACTERS] + "..."
        raise UserError(f"{named}: cannot be loaded: {said}{instead}") from error


class ClusterError(UserError):
    """Ray does not start or answer, or is gone: nothing is wrong with the input, and another try may go well."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean 'x'?)' for the known word nearest to `word`, in capitals or not, or '' when none is near."""
    small = {each.lower(): each for each in known}
    nearest = difflib.get_close_matches(word.lower(), list(small), n=1, cutoff=0.5)
    return f" (did you mean '{small[nearest[0]]}'?)" if nearest else ""


_NAMES = (
    r"(?:token(?!i[sz])|secret|passw|passphrase|pwd|key|credential|signature|authorization|cookie|bearer"
    r"|(?<![a-z])(?:auth|pass|pat|sas|sig|jwt)(?![a-z]))"
)
_FORMS = (
    r"(?-i:\b(?:hf_[A-Za-z0-9]{16,}|gh[opusr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-(?=[\w-]*\d)[\w-]{16,}"
    r"|xox[abeprs]-[\w-]{10,}|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----)"
)
"""The list of what is secret: names of variables and of keys in addresses, and the forms that services give tokens."""

_NEXT = r"(?:(?<=[\s'\"([{<,=;])|(?<=::))[a-z][a-z0-9+.-]*://"
_USER = re.compile(rf"(?i)(?<![a-z0-9+.-])([a-z0-9+.-]*://)(?:(?!{_NEXT})[^\n])*@")
_VALUE = re.compile(rf"(?i)([?&#;][^\s=&#;?]*{_NAMES}[^\s=&#;?]*=)[^&\s]+")


def is_secret_name(name: str) -> bool:
    """Whether what an environment variable or an address holds under this name is a secret, as far as names tell."""
    return name not in ("PWD", "OLDPWD") and re.search(f"(?i){_NAMES}", name) is not None


def without_secrets(text: str) -> str:
    """An address, or a text that holds some, as it may be shown.

    User and password go, and as nobody can tell where a password ends that is not percent-encoded, all up to the last @
    before the next address or the line's end. So do values under secret names in queries and fragments, and tokens of
    known form. A value ends where a blank or & stands, which an address writes as %20 and %26.
    """
    shown = _VALUE.sub(r"\1...", _USER.sub(r"\1", text))
    return re.sub(_FORMS, "...", shown)
