"""Sentence embeddings of a corpus on Ray Data, computed once for all forget samples and kept in the store.

A pool of actors, each with one sentence-transformers model, embeds fixed batches: which actor takes a batch changes no
number. The result lies in the store as one .npy, written row by row as batches come back and read memory mapped.

    vectors = embed_texts(texts, "bundled", store, actors=2, batch_size=64)     # (N, D) float32, unit length
"""

from __future__ import annotations

import functools
import hashlib
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from icu_ray.console.progress import told
from icu_ray.data.encoder import BUNDLED, check_loaded, check_weights, explained_encoder, resolve_encoder
from icu_ray.data.text_columns import TextColumn, text_column
from icu_ray.errors import UserError
from icu_ray.storage.store import Store, file_hash

if TYPE_CHECKING:
    import pyarrow as pa

VECTORS = "vectors.npy"
_ENCODER_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")
_PATH_MARKS = (".", "/", "~")
_IGNORED = ["onnx/*", "openvino/*", "*.h5", "*.ot", "*.msgpack", "*.md"]


def check_encoder(encoder: str) -> None:
    """UserError when an encoder cannot be had, as far as this machine can say without a network."""
    source = resolve_encoder(encoder)
    if Path(source).is_dir() or source.startswith(_PATH_MARKS):
        encoder_folder(encoder)


def encoder_folder(encoder: str) -> Path:
    """Folder of an encoder ('bundled', a folder or a hub id); UserError when there is none."""
    source = resolve_encoder(encoder)
    folder = Path(source)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            raise UserError(
                f"pairs.encoder: folder {encoder} holds no sentence encoder (no modules.json or config.json)"
            )
        return folder
    how = "give a hub id, the folder of an encoder, or 'bundled'"
    if source.startswith(_PATH_MARKS):
        raise UserError(f"pairs.encoder: {encoder}: no such folder; {how}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, ignore_patterns=_IGNORED))
    except Exception as error:  # the hub client raises many kinds, all meaning that this id cannot be had
        raise UserError(
            f"pairs.encoder: {encoder} cannot be loaded ({type(error).__name__}: {error}); {how}"
        ) from error


def encoder_identity(encoder: str) -> str:
    """An encoder as part of a trial's identity: a folder by its content, 'bundled' and a hub id by their name."""
    if encoder == BUNDLED or not Path(encoder).is_dir():
        return encoder
    return f"content:{encoder_fingerprint(encoder)}"


@functools.cache
def encoder_fingerprint(encoder: str) -> str:
    """SHA-256 over the encoder's files, so that a hub id, a folder and 'bundled' with one content are one encoder."""
    folder = encoder_folder(encoder)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.is_file() and path.suffix in _ENCODER_FILES and "onnx" not in path.parts:
            digest.update(f"{path.relative_to(folder).as_posix()}:{file_hash(path)}\n".encode())
    return digest.hexdigest()


def texts_fingerprint(texts: Sequence[str]) -> str:
    """SHA-256 over texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()


def embed_texts(
    texts: Sequence[str], encoder: str, store: Store, *, actors: int, batch_size: int
) -> NDArray[np.float32]:
    """(N, D) float32 unit vectors of distinct texts, memory mapped from the store; needs a running Ray if missing."""
    return stored_vectors(texts, encoder, store, actors=actors, batch_size=batch_size)()


def stored_vectors(
    texts: Sequence[str], encoder: str, store: Store, *, actors: int, batch_size: int
) -> Callable[[], NDArray[np.float32]]:
    """What gives the vectors of `embed_texts`, which are in the store from now on, in any process of any node."""
    key = {"encoder": encoder_fingerprint(encoder), "texts": texts_fingerprint(texts)}

    def make(folder: Path) -> None:
        vectors: np.memmap[Any, np.dtype[np.float32]] | None = None
        done = 0
        told("embedding")
        for rows, block in _embed(texts, encoder, actors, batch_size):
            if vectors is None:
                shape = (len(texts), block.shape[1])
                vectors = np.lib.format.open_memmap(folder / VECTORS, mode="w+", dtype=np.float32, shape=shape)
            vectors[rows] = block
            done += len(rows)
            told("embedding", done / len(texts))
        assert vectors is not None
        vectors.flush()

    store.get_or_make("embeddings", key, make)
    return functools.partial(_stored, store.remote or str(store.folder), key)


def _stored(root: str, key: dict[str, str]) -> NDArray[np.float32]:
    def gone(folder: Path) -> None:
        node = socket.gethostname()
        raise RuntimeError(f"node {node} does not see the embeddings in {root}, a folder that all nodes must share")

    store = Store(root)
    # Whoever made or fetched it has checked it.
    folder = store.local("embeddings", key) or store.get_or_make("embeddings", key, gone)
    loaded: NDArray[np.float32] = np.load(folder / VECTORS, mmap_mode="r")
    return loaded


@contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Ray Data without progress bars, for the datasets made inside."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        yield


def _embed(
    texts: Sequence[str], encoder: str, actors: int, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Blocks of (row numbers, vectors) in any order."""
    import ray

    # Texts of one length stand together, so that little is padding; batches are fixed here, so that a text's vector
    # does not depend on how many actors there are.
    order = np.argsort(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)), kind="stable")
    items = [{"start": start} for start in range(0, len(order), batch_size)]
    actors = min(actors, len(items))
    # The texts go to Ray once, as whole buffers that all actors of a node share; an actor reads those of its batch.
    shared = ray.put((texts if isinstance(texts, TextColumn) else text_column(texts), order))
    with quiet_ray_data():
        embedded = ray.data.from_items(items, override_num_blocks=min(len(items), 8 * actors)).map_batches(
            ColumnEmbedder,
            fn_constructor_args=(encoder, [shared], batch_size),  # inside a list a reference stays one
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=1,
        )
        blocks: Any = embedded.iter_batches(batch_size=None, batch_format="pyarrow")
        try:
            for block in blocks:
                yield block.column("row").to_numpy(), matrix_of(block.column("vector"))
        except ray.exceptions.RayError as error:
            if is_refusal(error):
                Embedder(encoder)  # which is refused here too, in one line
            raise


def is_refusal(error: Exception) -> bool:
    """Whether Ray tells of an actor that refused its encoder: it quotes the UserError. Else a node was lost, say."""
    return UserError.__name__ in str(error)


class Embedder:
    """One actor's model; a call takes one batch of texts (one row of the dataset) and gives a row for each text."""

    def __init__(self, encoder: str) -> None:
        key = "pairs.encoder"
        with explained_encoder(key, encoder):
            from sentence_transformers import SentenceTransformer

            # The word 'bundled' and hub ids are resolved here, on the actor's own machine.
            self.model = SentenceTransformer(resolve_encoder(encoder), device="cpu")
            transformer = getattr(self.model[0], "auto_model", None)
            missing = ()
            if transformer is not None and encoder != BUNDLED:
                # sentence-transformers does not tell which weights it drew at random; read again, transformers does.
                loaded: Any = type(transformer).from_pretrained(transformer.name_or_path, output_loading_info=True)
                missing = loaded[1]["missing_keys"]
            if transformer is not None:
                check_loaded(transformer, self.model.tokenizer, key, encoder, None)
            check_weights(self.model, missing, key, encoder)

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        rows = [row for item in batch.column("rows").to_pylist() for row in item]
        texts = [text for item in batch.column("texts").to_pylist() for text in item]
        raw: Any = self.model.encode(texts, batch_size=len(texts), show_progress_bar=False, convert_to_numpy=True)
        vectors = np.asarray(raw, dtype=np.float32)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return pa.table({"row": np.asarray(rows, dtype=np.int64), "vector": vector_column(vectors)})


class ColumnEmbedder(Embedder):
    """An embedder that is told where a batch starts, and reads its texts from those that all actors share.

    shared: a reference to all texts, and to the order of their rows in which they are embedded.
    """

    def __init__(self, encoder: str, shared: list[Any], batch_size: int) -> None:
        super().__init__(encoder)
        import ray

        self.texts: TextColumn
        self.order: NDArray[np.int64]
        self.texts, self.order = ray.get(shared[0])
        self.batch_size = batch_size

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        parts = [self.order[start : start + self.batch_size].tolist() for start in batch.column("start").to_pylist()]
        texts = [[self.texts[row] for row in rows] for rows in parts]
        return super().__call__(pa.table({"rows": parts, "texts": texts}))


def vector_column(vectors: NDArray[np.float32]) -> Any:
    """(N, D) float32 as an Arrow column of fixed-size lists, without copying."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def matrix_of(column: Any) -> NDArray[np.float32]:
    """(N, D) float32 of such a column."""
    joined = column.combine_chunks()
    flat: NDArray[np.float32] = joined.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(joined), -1)
