"""Rows of files: parquet, JSONL and JSON, CSV. Text is read at once, pictures only when asked for."""

import bisect
import csv
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foveal.data.bounded import json_value, read_json, short
from foveal.data.errors import DataError, listing, of_kind

CELL_CHARACTERS = 1 << 28
"""Most characters of a cell of CSV: pictures in base64 have millions."""

CACHE_BYTES = 2 << 30
"""Picture columns of row groups kept in memory; a shuffled pass over more reads row groups again."""


class Rows(ABC):
    """A table with cheap cells and expensive pictures."""

    columns: tuple[str, ...]
    folder: Path | None
    """Where relative picture paths start."""
    roots: tuple[Path, ...] = ()
    """Further folders where pictures may lie: the folder that was given, above the file's own."""
    classes: Mapping[str, tuple[str, ...]] = {}
    """Columns of class numbers (ClassLabel of `datasets`), and the names of the classes."""
    heavy: frozenset[str] = frozenset()
    """Columns that hold bytes, which `cells` leaves out: the whole column, or the bytes inside its tables."""

    faults: Mapping[int, DataError] = {}
    """Rows whose text cannot be read, and why; they have no cells."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def cells(self, index: int) -> Mapping[str, Any]:
        """The cells of a row; picture bytes may be left out, never whole pictures of a list."""

    def pictures(self, index: int, column: str) -> object:
        """A cell with its picture bytes."""
        return self.cells(index).get(column)

    def values(self, column: str) -> list[Any]:
        """A whole column without picture bytes."""
        return [self.cells(index).get(column) for index in range(len(self))]

    @abstractmethod
    def where(self, index: int) -> str:
        """File and row, for messages."""

    @abstractmethod
    def name(self, index: int) -> str:
        """A stable id for a row without one: file stem and row."""


class RecordRows(Rows):
    """Rows already in memory: of JSONL, JSON or CSV."""

    def __init__(
        self,
        path: Path,
        records: Sequence[tuple[int, Mapping[str, Any] | DataError]],
        *,
        unit: str,
    ) -> None:
        """`records` with the number by which `unit` ("line", "row") a person finds each in the file; an error
        in place of one that cannot be read.

        Raises: DataError, when there is none, or none that can be read.
        """
        self.faults = {n: record for n, (_, record) in enumerate(records) if isinstance(record, DataError)}
        if records and len(self.faults) == len(records):
            raise self.faults[0]
        if not records:
            raise DataError(f"{path} is empty; expected one row per problem")
        self._records = [(n, {} if isinstance(record, DataError) else record) for n, record in records]
        self._unit, self._path = unit, path
        self.columns = tuple(dict.fromkeys(str(key) for _, record in self._records for key in record))
        self.folder = path.parent

    def __len__(self) -> int:
        return len(self._records)

    def cells(self, index: int) -> Mapping[str, Any]:
        """The row as it was read."""
        return self._records[index][1]

    def where(self, index: int) -> str:
        """Such as `data.jsonl line 7`."""
        return f"{self._path.name} {self._unit} {self._records[index][0]}"

    def name(self, index: int) -> str:
        """File stem and row, from 0."""
        return f"{self._path.stem}/{index}"


def jsonl_rows(path: Path) -> RecordRows:
    """JSONL: an object per line, blank lines skipped. Raises: DataError, when no line can be read."""
    records: list[tuple[int, Mapping[str, Any] | DataError]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                records.append((number, _object(line, where=f"{path.name} line {number}")))
            except DataError as error:
                records.append((number, error))
    return RecordRows(path, records, unit="line")


@of_kind("text")
def _object(line: bytes, *, where: str) -> Mapping[str, Any]:
    """The object of a line. Raises: DataError."""
    try:
        record = read_json(line.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except DataError as error:
        raise DataError(f"{where}: {error}; write one complete object per line") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, got {type(record).__name__}")
    return record


def json_rows(path: Path) -> RecordRows:
    """A JSON file: a list of objects, objects by key (the key is the id), or such a list inside an object.

    Raises: DataError naming line or row.
    """
    text = path.read_bytes()
    try:
        found = read_json(text)
    except DataError as error:
        first = text.lstrip().partition(b"\n")[0]
        try:
            several = isinstance(read_json(first), dict) and b"\n" in text.strip()
        except DataError:
            several = False
        if several:
            return jsonl_rows(path)
        raise DataError(f"{path.name}: {error}; expected a list of objects") from None
    records = _records(found, path)
    if records is None:
        raise DataError(f"{path.name}: expected a list of objects; JSONL files end in .jsonl")
    return RecordRows(path, list(enumerate(records)), unit="row")


def _records(found: object, path: Path) -> list[dict[str, Any]] | None:
    if isinstance(found, list):
        return found if all(isinstance(record, dict) for record in found) else None
    if not isinstance(found, dict) or not found:
        return None
    if all(isinstance(record, dict) for record in found.values()):
        # As LogicVista: {"v1_0": {...}, "v1_1": {...}}. The keys are ids where the rows have none.
        return [{"id": key, **record} for key, record in found.items()]
    lists = {key: part for key, part in found.items() if _is_table(part)}
    if len(lists) == 1:
        return list(next(iter(lists.values())))
    if lists:
        raise DataError(
            f"{path.name} holds several lists of objects: {listing(lists)}; write each into a file of its own"
        )
    if all(isinstance(part, list) for part in found.values()) and len({len(p) for p in found.values()}) == 1:
        return [dict(zip(found, cells, strict=True)) for cells in zip(*found.values(), strict=True)]
    return None


def _is_table(part: object) -> bool:
    return isinstance(part, list) and bool(part) and all(isinstance(record, dict) for record in part)


def csv_rows(path: Path) -> RecordRows:
    """CSV or TSV with a header; cells that begin with `[` or `{` are JSON.

    Raises: DataError, when no line can be read, or nothing behind one.
    """
    records: list[tuple[int, Mapping[str, Any] | DataError]] = []
    before = csv.field_size_limit(CELL_CHARACTERS)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(
                file, restkey="", delimiter="\t" if path.suffix.lower() == ".tsv" else ","
            )
            try:
                for record in reader:
                    if "" in record or None in record.values():
                        fault = DataError(
                            f"{path.name} line {reader.line_num}: expected {len(reader.fieldnames or ())} "
                            "cells; quote cells that contain commas",
                            kind="text",
                        )
                        records.append((reader.line_num, fault))
                        continue
                    cells = {key: _csv_cell(text) for key, text in record.items()}
                    records.append((reader.line_num, cells))
            except (csv.Error, UnicodeDecodeError) as error:
                raise DataError(f"{path.name} line {reader.line_num}: broken CSV: {error}") from error
    finally:
        csv.field_size_limit(before)
    return RecordRows(path, records, unit="line")


def _csv_cell(text: str) -> object:
    value = json_value(text) if text.startswith(("[", "{")) else None
    return text if value is None else value


class ParquetRows(Rows):
    """Parquet files as one table. Columns of bytes are read a row group at a time and kept while they fit."""

    def __init__(self, paths: Sequence[Path], *, cache_bytes: int = CACHE_BYTES) -> None:
        """Reads all text at once. Raises: DataError for a broken or empty file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._paths, self._files, tables = tuple(paths), [], []
        self._starts: list[int] = []
        self._groups: list[list[int]] = []
        total = 0
        for path in paths:
            try:
                file = pq.ParquetFile(path, memory_map=True)
                tables.append(file.read(columns=_light_leaves(file)))
            except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
                raise DataError(
                    f"{path}: not a parquet file that can be read: {short(str(error), limit=200)}"
                ) from error
            self._files.append(file)
            self._starts.append(total)
            total += file.metadata.num_rows
            sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
            self._groups.append([sum(sizes[:g]) for g in range(len(sizes))])
        if total == 0:
            raise DataError(f"{', '.join(path.name for path in paths)}: no rows; expected one row a problem")
        try:
            self._light = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(
                f"parquet files of one data set differ in their columns: {error}; "
                "point at one file, or choose a split"
            ) from error
        self._total, self._cache_bytes = total, cache_bytes
        self._cache: OrderedDict[tuple[int, int, str], Any] = OrderedDict()
        self.columns = tuple(dict.fromkeys(name for file in self._files for name in file.schema_arrow.names))
        self.folder = self._paths[0].parent
        self.heavy = frozenset(name for file in self._files for name in _heavy(file))
        self.classes = _classes(self._files[0].schema_arrow)
        stems = [path.stem for path in self._paths]
        self._stems = (
            stems if len(set(stems)) == len(stems) else [f"{n}/{stem}" for n, stem in enumerate(stems)]
        )

    def __len__(self) -> int:
        return self._total

    def cells(self, index: int) -> Mapping[str, Any]:
        """The row without bytes: a list of pictures keeps its length, its tables only their `path`."""
        if not self._light.num_columns:
            return {}
        with self._damage(index):
            return plain_cells(self._light.slice(index, 1))

    def pictures(self, index: int, column: str) -> object:
        """The whole cell, from the row group that holds it."""
        place, row = self._place(index)
        group = bisect.bisect_right(self._groups[place], row) - 1
        key = (place, group, column)
        if key not in self._cache:
            with self._damage(index):
                self._cache[key] = self._files[place].read_row_group(group, columns=[column]).column(column)
            while (
                len(self._cache) > 1 and sum(part.nbytes for part in self._cache.values()) > self._cache_bytes
            ):
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        with self._damage(index):
            return self._cache[key][row - self._groups[place][group]].as_py()

    def values(self, column: str) -> list[Any]:
        """A whole column without picture bytes."""
        if column not in self._light.column_names:
            return [None] * self._total
        with self._damage(0):
            found: list[Any] = self._light.column(column).to_pylist()
        return found

    def where(self, index: int) -> str:
        """Such as `train.parquet row 7`, from 0."""
        place, row = self._place(index)
        return f"{self._paths[place].name} row {row}"

    def name(self, index: int) -> str:
        """File stem and row, from 0."""
        place, row = self._place(index)
        return f"{self._stems[place]}/{row}"

    @contextmanager
    def _damage(self, index: int) -> Iterator[None]:
        """Damage that shows only when cells are read, as an error of the row."""
        try:
            yield
        except (OSError, ValueError, IndexError, OverflowError) as error:  # Arrow's own derive from these
            raise DataError(
                f"{self.where(index)}: the file is damaged: {short(str(error), limit=200)}; write it again"
            ) from error

    def _place(self, index: int) -> tuple[int, int]:
        place = bisect.bisect_right(self._starts, index) - 1
        return place, index - self._starts[place]


def plain_cells(row: Any) -> dict[str, Any]:
    """The cells of an Arrow table of one row; text that is no UTF-8 stays bytes, which no field takes."""
    try:
        found: dict[str, Any] = row.to_pylist()[0] if row.num_columns else {}
    except UnicodeDecodeError:
        return {name: _cell(row.column(name)) for name in row.column_names}
    return found


def _cell(column: Any) -> object:
    import pyarrow as pa

    try:
        return column[0].as_py()
    except UnicodeDecodeError:
        try:
            return column.cast(pa.binary())[0].as_py()
        except pa.ArrowException:  # text inside a list or table
            return b""


def _light_leaves(file: Any) -> list[str]:
    """Leaf columns without raw bytes, so that a table of pictures is read for its paths and length only."""
    return [leaf.path for leaf in _leaves(file) if not _is_raw(leaf)]


def _heavy(file: Any) -> set[str]:
    """Columns with raw bytes at any depth."""
    names = file.schema_arrow.names
    paths = [leaf.path for leaf in _leaves(file) if _is_raw(leaf)]
    return {name for name in names if any(path == name or path.startswith(f"{name}.") for path in paths)}


def _leaves(file: Any) -> list[Any]:
    return [file.schema.column(n) for n in range(len(file.schema))]


def _is_raw(leaf: Any) -> bool:
    raw = ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
    return leaf.physical_type in raw and leaf.logical_type.type == "NONE"


def _classes(schema: Any) -> dict[str, tuple[str, ...]]:
    """Names of classes by column, from what `datasets` writes into the schema of a parquet file."""
    text = (schema.metadata or {}).get(b"huggingface", b"")
    about = json_value(text.decode("utf-8", "replace")) if text else None
    info = about.get("info") if isinstance(about, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    found = {}
    for column, feature in (features if isinstance(features, dict) else {}).items():
        names = feature.get("names") if isinstance(feature, dict) else None
        if isinstance(names, list) and feature.get("_type") == "ClassLabel":
            found[column] = tuple(str(name)[:200] for name in names)
    return found
