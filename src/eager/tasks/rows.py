"""Rows from a local file or the hub. Rows are untrusted: whatever is wrong with them becomes a TaskError.

jsonl and csv are read with the standard library: readers that guess types would make 25 of 025.
"""

import csv
import gzip
import importlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from eager.errors import first_line
from eager.tasks.base import HubSource, TaskError
from eager.words import one_line

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
# The csv module's own bound, 131,072 characters, is shorter than some problems.
_LARGEST_CELL = 2**31 - 1


def read_file(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl, .json (a list of objects), .csv or .parquet file; all but the last may be gzipped (.gz)."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix not in SUFFIXES or path.name.endswith(".parquet.gz"):
        raise TaskError(f"{path} is no data file this reads: give one of {', '.join(SUFFIXES)}")
    try:
        if suffix == ".parquet":
            return _read_parquet(path)
        reader = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv}[suffix]
        with _open_text(path) as lines:
            return list(reader(lines, path))
    except FileNotFoundError:
        raise TaskError(f"{path} does not exist: check --data_path") from None
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{path} cannot be read ({error}): check the file") from error
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{path} is not UTF-8 text ({error.reason} in line {_first_line_of_other_bytes(path)}): convert it"
        ) from error


def read_hub(source: HubSource) -> list[dict[str, Any]]:
    """The rows of a dataset on the hub, through the `datasets` library."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise TaskError(
            f"reading {source.path} from the hub needs the library datasets: pip install 'eager-gen[tasks]', "
            "or give a local copy with --data_path"
        ) from None
    try:
        parts = [datasets.load_dataset(source.path, config, split=source.split) for config in source.configs]
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise TaskError(
            f"{source.path} (split {source.split}) cannot be loaded from the hub ({first_line(error)}): "
            "give a local copy with --data_path"
        ) from error
    return [dict(row) for part in parts for row in part]


def _open_text(path: Path) -> TextIO:
    """Text with or without a byte-order mark, line ends as they are."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _first_line_of_other_bytes(path: Path) -> int:
    """The number of the first line that is no UTF-8."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        return next((number for number, line in enumerate(lines, 1) if not _is_utf8(line)), 1)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _read_jsonl(lines: TextIO, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _object(_parse(line, f"{path}, line {number},"), f"{path}, line {number},")


def _read_json(file: TextIO, path: Path) -> Iterator[dict[str, Any]]:
    rows = _parse(file.read(), str(path))
    if not isinstance(rows, list):
        raise TaskError(f"{path} is no list of objects: make it one, or call it .jsonl if it has one object a line")
    for number, row in enumerate(rows, 1):
        yield _object(row, f"{path}, entry {number},")


def _read_csv(lines: TextIO, path: Path) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(lines, restkey="", strict=True)
    limit = csv.field_size_limit(_LARGEST_CELL)
    try:
        _refuse_twins(reader.fieldnames or (), path)
        for row in reader:
            if "" in row and "" not in (reader.fieldnames or ()):
                raise TaskError(f"{path}, line {reader.line_num}, has more cells than the header: quote its commas")
            yield row
    except csv.Error as error:
        raise TaskError(f"{path}, after line {reader.line_num}, is no valid CSV ({error}): correct it") from error
    finally:
        csv.field_size_limit(limit)


def _refuse_twins(columns: Sequence[str], path: Path) -> None:
    """Of two columns of one name only the last would be read."""
    twins = [name for name, times in Counter(columns).items() if times > 1 and name]
    if twins:
        raise TaskError(f"{path} has more than one column '{one_line(twins[0])}': rename all but one")


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise TaskError(f"reading {path} needs the library pyarrow: pip install 'eager-gen[tasks]'") from None
    try:
        table = parquet.read_table(path)  # which refuses two columns of one name
        rows: list[dict[str, Any]] = table.to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:  # the others: moments that Python lacks
        raise TaskError(f"{path} is no valid parquet file ({first_line(error)}): check the file") from error
    short = {pyarrow.float16(): np.float16, pyarrow.float32(): np.float32}
    for column in table.schema:
        if column.type in short:  # widened they would have digits that nobody wrote: 0.10000000149011612
            for row in rows:
                row[column.name] = None if row[column.name] is None else short[column.type](row[column.name])
    return rows


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text, parse_float=_exact, object_pairs_hook=_without_twins)
    except json.JSONDecodeError as error:
        raise TaskError(f"{where} is no valid JSON ({error.msg} at column {error.colno}): correct it") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits; brackets nested too deep
        raise TaskError(f"{where} cannot be read as JSON ({first_line(error)}): correct it") from error


def _exact(text: str) -> Decimal | float:
    """A number with all the digits it was written with."""
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of more than 18 digits
        return float(text)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twin = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name '{one_line(twin)}' stands twice in one object")
    return found


def _object(row: object, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise TaskError(f"{where} holds {type(row).__name__} where an object of columns belongs: correct it")
    return row
