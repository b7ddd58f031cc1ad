"""A trial's checkpoints as they lie in storage: the newest that is whole, and Ray's list of them.

with newest_checkpoint(paths) as folder: ...
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from icu_ray.storage.files import join, list_dir, read_bytes
from icu_ray.storage.folders import fetched, remove
from icu_ray.storage.trial_files import TrialPaths

log = logging.getLogger(__name__)
_SNAPSHOT = "checkpoint_manager_snapshot.json"


@contextlib.contextmanager
def newest_checkpoint(paths: TrialPaths) -> Iterator[Path | None]:
    """A local folder with the newest checkpoint that is whole, None where there is none.

    Looked for among the folders themselves: a driver killed between upload and bookkeeping leaves a good one that Ray
    does not know, and a machine that lost power may leave a bad one that it does.
    """
    from icu_ray.training.checkpoints import DamagedCheckpoint, read_state

    with contextlib.ExitStack() as stack:
        for name in sorted((n for n in list_dir(paths.checkpoint) if n.startswith("checkpoint_2")), reverse=True):
            folder = stack.enter_context(fetched(join(paths.checkpoint, name)))
            try:
                read_state(folder)
            except DamagedCheckpoint as error:
                log.warning("not continued from a damaged checkpoint: %s", error)
                continue
            yield folder
            return
        yield None


def drop_broken_snapshot(paths: TrialPaths) -> None:
    """Ray's list of checkpoints is not written atomically; a torn one would keep the trial from ever starting again."""
    url = join(paths.checkpoint, _SNAPSHOT)
    content = read_bytes(url)
    if content is None:
        return
    try:
        known = {entry["checkpoint_dir_name"] for entry in json.loads(content)["checkpoint_results"]}
        broken = not known <= set(list_dir(paths.checkpoint))
    except (ValueError, KeyError, TypeError):
        broken = True
    if broken:
        log.warning("%s is damaged; the trial's checkpoints are looked for without it", url)
        remove(url)
