"""Download the public files of the extraction benchmark: token rows, the paper's forget samples, GPT-2's vocabulary.

Each file comes from a public repository at a fixed commit and is checked against its SHA-256 before it gets its name;
what is there already is not loaded again, a broken download goes on where it stopped. Without network the answer is
the list of what to put where.

    fetch_data(Path("data"), print)         # icu-ray data fetch

Why not pooch: it checks hashes and tries again too, but begins a broken download at its first byte, and tells neither a
server that is not there from a file that is gone, nor how far it is to who listens (console/progress.py).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from icu_ray.console.progress import told
from icu_ray.errors import UserError
from icu_ray.storage.files import write_atomic
from icu_ray.storage.store import file_hash

SERVER = "https://raw.githubusercontent.com"
ATTEMPTS = 5
"""Times a file is asked for without a single new byte before it is given up."""
TIMEOUT_S = 30.0
_CHUNK = 1 << 16


@dataclass(frozen=True)
class PublicFile:
    """A file at a fixed commit of a public repository, and its place below the data folder."""

    place: str
    repository: str
    commit: str
    path: str
    size: int
    sha256: str

    def url(self, server: str = SERVER) -> str:
        """Where its raw bytes are."""
        return f"{server}/{self.repository}/{self.commit}/{self.path}"


def _sample(number: int, size: int, sha256: str) -> PublicFile:
    name = f"lm_extraction_128_{number}.csv"
    commit = "bb776e39de81ebcb53d1e7e51031960ec4f6842c"
    return PublicFile(
        f"lm_extraction/{name}", "himalalps/ICU", commit, f"datasets/exp/exp{number}/{name}", size, sha256
    )


def _gpt2(name: str, path: str, size: int, sha256: str) -> PublicFile:
    commit = "401078fde5e85475590dc04c9ed11b79332b8717"
    return PublicFile(f"gpt2_tokenizer/{name}", "graykode/gpt-2-Pytorch", commit, f"GPT2/{path}", size, sha256)


FILES = (
    PublicFile(
        "lm_extraction/train_dataset.npy",
        "ethz-spylab/lm-extraction-benchmark-data",
        "5a3286942710076d56024cfdb296f7c585cd2b7c",
        "datasets/train_dataset.npy",
        6000128,
        "6551edc9438b282ddba317a4796499f979adebc28468184b584d12f3fb328843",
    ),
    _sample(0, 91120, "a91cf063212d4975e2b3ddca0bc0a6026f26a4de024307586e763e69f5a6516a"),
    _sample(1, 87248, "18f5fde224c22609437cc55f0fd4aa0b027f1913e56c28459c1acaf47d956eee"),
    _sample(2, 89633, "d567e3573f0af623ede30d0d17ee61096f66bda27048e80b06cec92ce6dcfb8b"),
    _sample(3, 90831, "859fd14bd2bd93aca88efb6e9a6b29bde6cbf65756a1ad877f592284bf809318"),
    _sample(4, 90431, "2a15e52168f0ed6bed23653eadda0685a07f36154974403274dae6679216dc97"),
    _gpt2("vocab.json", "encoder.json", 1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    _gpt2("merges.txt", "vocab.bpe", 456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
)
_TOKENIZER_CONFIG = {
    "tokenizer_class": "GPT2Tokenizer",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "model_max_length": 1024,
    "add_prefix_space": False,
    "clean_up_tokenization_spaces": False,
}


class _Unreachable(Exception):
    """A file that cannot be had from here, and why."""


def fetch_data(
    folder: Path,
    report: Callable[[str], None],
    *,
    files: Sequence[PublicFile] = FILES,
    server: str = SERVER,
    pause_s: float = 1.0,
) -> None:
    """Bring `files` below `folder`; UserError with the list of what to put where when they cannot be had.

    `report` gets one line a file. `pause_s`: seconds before the first retry, doubled each time.
    """
    missing: list[tuple[PublicFile, str]] = []
    for file in files:
        place = folder / file.place
        if place.exists():
            _refuse_other_content(place, file)
            report(f"{place}: there already")
            continue
        if missing and missing[-1][1].startswith("no connection"):
            missing.append((file, missing[-1][1]))  # one answer is enough: do not wait for every file in turn
            continue
        try:
            _download(place, file, file.url(server), pause_s)
            report(f"{place}: {file.size:,} bytes from github.com/{file.repository}")
        except _Unreachable as error:
            missing.append((file, str(error)))
    if missing:
        raise UserError(_instructions(folder, missing, server))
    if any(file.place.startswith("gpt2_tokenizer/") for file in files):
        # The published vocabulary comes without the file that tells transformers which tokenizer it is.
        write_atomic(
            str(folder / "gpt2_tokenizer/tokenizer_config.json"), json.dumps(_TOKENIZER_CONFIG, indent=1).encode()
        )


def _instructions(folder: Path, missing: Sequence[tuple[PublicFile, str]], server: str) -> str:
    lines = [f"data fetch: {len(missing)} files cannot be downloaded ({missing[0][1]}). Put them there by hand:"]
    for file, _ in missing:
        lines.append(
            f"  {folder / file.place}\n    from {file.url(server)}\n    {file.size} bytes, SHA-256 {file.sha256}"
        )
    return "\n".join(lines)


def _refuse_other_content(place: Path, file: PublicFile) -> None:
    if place.stat().st_size != file.size or file_hash(place) != file.sha256:
        raise UserError(
            f"data fetch: {place} is there, but is not the published file ({file.size} bytes, SHA-256 {file.sha256}); "
            "move it away and fetch again"
        )


def _download(place: Path, file: PublicFile, url: str, pause_s: float) -> None:
    """One file, continued from what an earlier attempt left, named only when its checksum is right."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.part")
    idle, reason, started_anew = 0, "", False
    while True:
        have = part.stat().st_size if part.exists() else 0
        if have >= file.size:
            if have == file.size and file_hash(part) == file.sha256:
                os.replace(part, place)
                return
            part.unlink()
            if started_anew:
                raise _Unreachable(f"{url} gives other bytes than published")
            started_anew = True  # the leftover may have been another version's: try once from the first byte
            continue
        if idle == ATTEMPTS:
            raise _Unreachable(reason)
        if idle:
            time.sleep(pause_s * 2 ** (idle - 1))
        try:
            _append(part, url, have, file.size)
            reason = f"{url} ends too early"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise _Unreachable(f"{url}: {error.code} {error.reason}") from error
            reason = f"{url}: {error.code} {error.reason}"
        except urllib.error.URLError as error:
            reason = f"no connection to {url.split('/')[2]}: {error.reason}"
        except (OSError, http.client.HTTPException) as error:  # the connection was cut, or nothing came in time
            reason = f"connection lost: {error}"
        grown = (part.stat().st_size if part.exists() else 0) > have
        idle = 0 if grown else idle + 1


def _append(part: Path, url: str, have: int, size: int) -> None:
    """Ask for the bytes from `have` on and add them to `part`; a server that sends everything starts it anew."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with contextlib.closing(urllib.request.urlopen(request, timeout=TIMEOUT_S)) as response:  # the URLs above only
        continues = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        with part.open("ab" if continues else "wb") as target:
            left = size - (have if continues else 0)
            # One byte more than expected is taken, so that a longer file is noticed; no more than that.
            while left >= 0 and (chunk := response.read(min(_CHUNK, left + 1))):
                target.write(chunk)
                left -= len(chunk)
                told(f"downloading {part.stem}", min(1.0, 1 - left / size))
