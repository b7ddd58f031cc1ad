"""Whether the models of a plan can be used, as far as can be told before anything starts.

    check_models(config.models, [("filter.encoder", "./my-bert", 9)])

Asks of each what loading would ask of it, weights apart: config.json, class, tokenizer. Only torch and transformers can
tell, which a plan does not import: where they are not there yet, a process of its own answers for all models at once
(about as long as importing them takes). A hub's model that is not in the local cache is told when it is loaded.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from icu_ray.config import ModelConfig
from icu_ray.data.encoder import BUNDLED
from icu_ray.errors import UserError
from icu_ray.models.architecture import check_architecture, check_scores, read_config
from icu_ray.models.encoders import check_encoder_class, encoder_files
from icu_ray.models.gguf_files import converted_folder, gguf_folder, is_gguf
from icu_ray.models.hub import folder_here
from icu_ray.models.loading import check_model_source, load_tokenizer

_REFUSED = 2


def check_models(models: Sequence[ModelConfig], encoders: Sequence[tuple[str, str, int | None]] = ()) -> None:
    """UserError for the first model or encoder that cannot be used. encoders: key, source, layer asked for."""
    there: list[tuple[str, str, bool, bool]] = []
    for model in models:
        if model.source is None:
            continue
        check_model_source(model.source)
        # A GGUF file is converted where torch is.
        folder = converted_folder(model.source) if is_gguf(model.source) else folder_here(model.source, model.revision)
        if folder is not None and (is_gguf(model.source) or (folder / "config.json").is_file()):
            place = str(folder.absolute())
            there.append((model.source, place, model.trust_remote_code, model.activation_checkpointing))
    read: list[tuple[str, str, str, int | None]] = []
    for key, source, layer in encoders:
        folder = encoder_files(key, source, layer)
        if folder is not None and source != BUNDLED:
            read.append((str(folder.absolute()), key, source, layer))
    if "torch" in sys.modules:
        _check(there, read)
    elif there or read:
        done = subprocess.run(
            [sys.executable, "-m", __name__, json.dumps([there, read])], capture_output=True, text=True, check=False
        )
        if done.returncode == _REFUSED:
            raise UserError(done.stdout.splitlines()[-1])
        if done.returncode == -signal.SIGKILL:
            raise UserError("looking at the models: the system ended it, as a rule for want of memory")
        if done.returncode:
            raise RuntimeError(f"checking the models ended with {done.returncode}: {done.stderr}")


def _check(there: Sequence[tuple[str, str, bool, bool]], read: Sequence[tuple[str, str, str, int | None]]) -> None:
    for source, folder, trusted, checkpointing in there:
        if is_gguf(source):
            gguf_folder(source)
        load_tokenizer(folder, trust_remote_code=trusted)
        config = read_config(Path(folder), source, trust_remote_code=trusted)
        check_architecture(config, source, trust_remote_code=trusted, checkpointing=checkpointing)
        check_scores(config, source)
    for folder, key, source, layer in read:
        check_encoder_class(Path(folder), key, source, layer)


if __name__ == "__main__":
    try:
        _check(*json.loads(sys.argv[1]))
    except UserError as refused:
        sys.stdout.write(f"\n{refused}\n")
        sys.exit(_REFUSED)
