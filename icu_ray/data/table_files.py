"""Columns of a .jsonl, .json, .csv, .tsv or .parquet file, row by row, without a library that guesses.

What a file says of itself is believed: the mark at its beginning names UTF-16, the header names the separator (the one
that gives the columns asked for), a first bracket says that a JSON file is one array. Whatever else cannot be read is
refused with file, line and cause. A text has at most LONGEST characters, and a Parquet file may not unpack to a
multiple of its size that no real text has: a few kilobytes of it can hold gigabytes.

    for where, (text,) in read_columns(Path("forget.csv"), ["text"], key="data.forget"): ...
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from icu_ray.data.hub_data import Files, hub_files, hub_rows, is_hub_data
from icu_ray.errors import UserError, did_you_mean

READERS = (".jsonl", ".csv", ".parquet", ".json", ".tsv")
LONGEST = 5_000_000
"""Characters of a text; a row has at most 4,096 tokens."""
UNPACKED_BYTES, UNPACKED_TIMES = 64 * 2**20, 100
"""What a Parquet file may unpack to: so much, or so many times its own size. Texts are packed to a tenth at best."""

Row = tuple[str, list[Any]]
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which is its beginning
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_columns(path: Path, columns: Sequence[str], key: str) -> Iterator[Row]:
    """('line 7', values in the columns' order) of each row; how the file ends says what it is. `key`: for messages."""
    if is_hub_data(path):
        if files := hub_files(str(path), key):
            return _limited(_in_turn(path, files, columns, key), path, columns, key)
        _, found = hub_rows(str(path), key, columns)
        rows = ((f"row {number}", [row[column] for column in columns]) for number, row in enumerate(found, start=1))
        return _limited(rows, path, columns, key)
    return _limited(_rows(path, file_ending(path, key), columns, key), path, columns, key)


def _rows(path: Path, ending: str, columns: Sequence[str], key: str) -> Iterator[Row]:
    readers = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    return readers.get(ending, _json)(path, columns, key)


def _in_turn(path: Path, files: Files, columns: Sequence[str], key: str) -> Iterator[Row]:
    """The rows of a data set's files, one file after the other."""
    for name, file in files:
        with _called(path, name, file, files):
            for where, values in _rows(file, file.suffix.lower(), columns, key):
                yield where if len(files) == 1 else f"{name}: {where}", values


@contextlib.contextmanager
def _called(path: Path, name: str, file: Path, files: Files) -> Iterator[None]:
    """Messages name the data set, and its file where there are several, not the place where the file is kept."""
    try:
        yield
    except UserError as error:
        shown = str(path) if len(files) == 1 else f"{path}: {name}"
        raise UserError(str(error).replace(str(file), shown)) from error


def column_names(path: Path, key: str) -> list[str]:
    """The names of a file's columns; of a JSON file those of its first row."""
    if is_hub_data(path):
        for name, file in (files := hub_files(str(path), key)):
            with _called(path, name, file, files):
                if names := _names(file, file.suffix.lower(), key):
                    return names
        return [] if files else hub_rows(str(path), key)[0]
    return _names(path, file_ending(path, key), key)


def _names(path: Path, ending: str, key: str) -> list[str]:
    if ending == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{key}: {path}: no readable parquet ({error}); truncated?") from error
    if ending in (".csv", ".tsv"):
        return next((header for _, header, _ in csv_lines(path, (), key)), [])
    return next((list(record) for _, record in _objects(path, key)), [])


def file_ending(path: Path, key: str) -> str:
    """How a file that is there ends, which says what it is."""
    if path.suffix.lower() not in READERS:
        raise UserError(f"{key}: {path}: expected a file ending in {', '.join(READERS)}")
    if not path.is_file():
        near = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
        near = [name for name in near if did_you_mean(path.stem, [Path(name).stem])]  # '.jsonl' is no likeness
        what = "a link to nothing" if path.is_symlink() and not path.exists() else "no such file"
        raise UserError(f"{key}: {path}: {what}{did_you_mean(path.name, [name for name in near if name != path.name])}")
    return path.suffix.lower()


def _limited(rows: Iterator[Row], path: Path, columns: Sequence[str], key: str) -> Iterator[Row]:
    for where, values in rows:
        for column, value in zip(columns, values, strict=True):
            longest = len(value) if isinstance(value, str) else max(map(len, _texts_in(value)), default=0)
            if longest > LONGEST:
                raise UserError(
                    f"{key}: {path}: {where}: column '{column}' holds {longest:,} characters, expected at most "
                    f"{LONGEST:,}; split the text"
                )
        yield where, values


def _texts_in(cell: Any) -> Iterator[str]:
    """The texts of a cell, which may be a list of objects (a chat), however deep."""
    waiting = [cell]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _places(found: Sequence[str], columns: Sequence[str], path: Path, key: str, how: str = "") -> list[int]:
    """Where the columns stand in a header; blanks around its names do not count. UserError where one does not."""
    places = []
    for column in columns:
        here = [place for place, name in enumerate(found) if name.strip() == column.strip()]
        if not here:
            raise _missing(path, key, column, [name.strip() for name in found], how=how)
        if len(here) > 1:
            raise UserError(f"{key}: {path}: column '{column}' appears {len(here)} times, expected once")
        places.append(here[0])
    return places


def _missing(path: Path, key: str, column: str, found: Sequence[str], where: str = "", how: str = "") -> UserError:
    shown = ", ".join(found) or "nothing"
    return UserError(f"{key}: {path}: {where}no column '{column}'{did_you_mean(column, found)}; found {shown}{how}")


@contextlib.contextmanager
def _opened(path: Path, key: str, expected: str, newline: str) -> Iterator[TextIO]:
    """The file as text: in the encoding that its mark names, else UTF-8. UserError on what is neither."""
    with path.open("rb") as file:
        start = file.read(4096)
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in start:
        raise UserError(
            f"{key}: {path}: {expected} (zero bytes: UTF-16 without its mark, or no text at all); save it as UTF-8"
        )
    try:
        with path.open(encoding=encoding, newline=newline) as text:
            yield text
    except UnicodeError as error:
        raise _undecodable(path, key, expected, encoding, error) from error


def _undecodable(path: Path, key: str, expected: str, encoding: str, error: UnicodeError) -> UserError:
    """Names the first line that is not in the encoding."""
    if encoding.startswith("utf-8"):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError as wrong:
                    byte = f"byte 0x{line[wrong.start]:02x} is not UTF-8, perhaps Windows-1252"
                    return UserError(f"{key}: {path}: line {number}: {expected} ({byte}); save the file as UTF-8")
    return UserError(f"{key}: {path}: {expected} (no {encoding.upper()}, as its mark says: {error}); cut short?")


def _json(path: Path, columns: Sequence[str], key: str) -> Iterator[Row]:
    for where, record in _objects(path, key):
        for column in columns:
            if column not in record:
                raise _missing(path, key, column, list(record), f"{where}: ")
        yield where, [record[column] for column in columns]


def _objects(path: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a JSON file, an array or one object a line."""
    with _opened(path, key, "no JSON object", newline="\n") as file:
        first = next((line for line in file if line.strip()), "")
        if first.lstrip().startswith("[") and (rows := _array(first + file.read(), path, key)) is not None:
            records: Iterator[tuple[str, Any]] = ((f"row {number}", row) for number, row in enumerate(rows, start=1))
        else:
            file.seek(0)
            records = _lines(file, path, key)
        for where, record in records:
            if not isinstance(record, dict):
                raise UserError(f"{key}: {path}: {where}: found {type(record).__name__}, expected an object")
            yield where, record


def _array(text: str, path: Path, key: str) -> list[Any] | None:
    """The rows of a file that is one array; None for one that holds a list a line."""
    try:
        rows: list[Any] = json.loads(text)
        return rows
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return None
        raise UserError(f"{key}: {path}: no JSON array ({error}){_cut(error, text)}") from error


def _cut(error: Exception, text: str) -> str:
    """A guess at the cause where the text ends before its JSON does."""
    ended = isinstance(error, json.JSONDecodeError) and (
        error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
    )
    return "; cut short?" if ended else ""


def _lines(file: TextIO, path: Path, key: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # no JSON, 5,000 digits, endless nesting
            what = f"line {number}: no JSON object ({error}){_cut(error, line)}"
            if line.strip() == "{":
                what = "one JSON object over several lines; expected an array of objects, or one object a line"
            raise UserError(f"{key}: {path}: {what}") from error
        yield f"line {number}", record


def _csv(path: Path, columns: Sequence[str], key: str) -> Iterator[Row]:
    lines = csv_lines(path, columns, key)
    _, header, how = next(lines, (0, [], ""))
    places = _places(header, columns, path, key, how)
    for number, values, _ in lines:
        where = f"the record ending on line {number}"
        if len(values) != len(header):
            raise UserError(f"{key}: {path}: {where}: found {len(values)} fields, expected {len(header)}{how}")
        yield where, [values[place] for place in places]


def csv_lines(path: Path, columns: Sequence[str], key: str) -> Iterator[tuple[int, list[str], str]]:
    """(number of its last line, cells, ', separated by semicolons' or '') of the header and of each record below it."""
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses texts above 128 KiB
    try:
        with _opened(path, key, "no readable CSV", newline="") as file:
            separator = _separator(file, columns, "\t" if path.suffix.lower() == ".tsv" else ",;\t|")
            how = "" if separator == "," else f", separated by {_SEPARATORS[separator]}"
            file.seek(0)
            # "id, text": the blank is of the separator.
            blanks = any(name.startswith(" ") for name in _header(csv.reader(file, delimiter=separator))[1:])
            file.seek(0)
            # strict: a quote that is never closed means a truncated file.
            reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=blanks)
            if header := _header(reader):
                yield reader.line_num, header, how
            yield from ((reader.line_num, cells, how) for cells in reader if cells)
    except csv.Error as error:
        cut = "; cut short?" if "unexpected end" in str(error) else ""
        raise UserError(f"{key}: {path}: no readable CSV ({error}){cut}") from error
    finally:
        csv.field_size_limit(limit)


def _header(lines: Iterator[list[str]]) -> list[str]:
    return next((cells for cells in lines if any(cell.strip() for cell in cells)), [])


def _separator(file: TextIO, columns: Sequence[str], separators: str) -> str:
    """The first that finds all columns in the header; without one, that which finds most names."""
    best, most, wanted = separators[0], 0, {column.strip() for column in columns}
    for separator in separators:
        file.seek(0)
        with contextlib.suppress(csv.Error):  # where semicolons separate, no comma follows a quoted name
            names = [name.strip() for name in _header(csv.reader(file, delimiter=separator, strict=True))]
            if wanted and wanted <= set(names):
                return separator
            if len(names) > most:
                best, most = separator, len(names)
    return best


def _parquet(path: Path, columns: Sequence[str], key: str) -> Iterator[Row]:
    # Only where a parquet file is read: the import costs half a second.
    import pyarrow as pa
    import pyarrow.parquet as pq

    most = max(UNPACKED_BYTES, UNPACKED_TIMES * path.stat().st_size)
    try:
        with pq.ParquetFile(path) as file:
            found = file.schema_arrow.names
            names = [found[place] for place in _places(found, columns, path, key)]
            unpacked, number = 0, 0
            # Row group by row group, so that a file cut in the middle is found by the group that cannot be read.
            for group in range(file.num_row_groups):
                _refuse_bomb(_announced(file.metadata.row_group(group), names), most, path, key)
                for batch in file.iter_batches(64, row_groups=[group], columns=names):
                    lists = [batch.column(name).to_pylist() for name in names]
                    for values in zip(*lists, strict=True):
                        number += 1
                        # A text that is written once may stand in a million rows.
                        for value in values:
                            unpacked += len(value) if isinstance(value, str) else sum(map(len, _texts_in(value)))
                        _refuse_bomb(unpacked, most, path, key)
                        yield f"row {number}", list(values)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{key}: {path}: no readable parquet ({error}); truncated?") from error


def _announced(group: Any, names: Sequence[str]) -> int:
    """Bytes that the columns of a row group say they unpack to."""
    parts = [group.column(number) for number in range(group.num_columns)]
    mine = [part for part in parts if any(f"{part.path_in_schema}.".startswith(f"{name}.") for name in names)]
    return sum(int(part.total_uncompressed_size) for part in mine)


def _refuse_bomb(unpacked: int, most: int, path: Path, key: str) -> None:
    if unpacked > most:
        raise UserError(
            f"{key}: {path}: {path.stat().st_size:,} bytes unpack to {unpacked:,} or more, expected at most {most:,}: "
            "no texts, or one text many times"
        )
