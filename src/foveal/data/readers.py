"""Rows of files: parquet, JSONL and JSON, CSV. Text is read at once, pictures only when asked for."""

import bisect
import csv
import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.data.errors import DataError, of_kind

CACHE_BYTES = 2 << 30
"""Picture columns of row groups kept in memory; a shuffled pass over more reads row groups again."""


class Rows(ABC):
    """A table with cheap cells and expensive pictures."""

    columns: tuple[str, ...]
    folder: Path | None
    """Where relative picture paths start."""
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
            raise DataError(f"{path} is empty; expected one row a problem")
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
    """JSONL: an object a line, blank lines skipped. Raises: DataError, when no line can be read."""
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
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: broken JSON: {error.msg} at column {error.colno}; write one complete object a line"
        ) from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, got {type(record).__name__}")
    return record


def json_rows(path: Path) -> RecordRows:
    """A JSON file with a list of objects. Raises: DataError naming line or row."""
    try:
        records = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name}: broken JSON: {error}; expected a list of objects") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path.name}: expected a list of objects; JSONL files end in .jsonl")
    return RecordRows(path, list(enumerate(records)), unit="row")


def csv_rows(path: Path) -> RecordRows:
    """CSV with a header; a cell that begins with `[` is a JSON list.

    Raises: DataError, when no line can be read, or nothing behind one.
    """
    records: list[tuple[int, Mapping[str, Any] | DataError]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restkey="")
        try:
            for record in reader:
                if "" in record or None in record.values():
                    fault = DataError(
                        f"{path.name} line {reader.line_num}: expected {len(reader.fieldnames or ())} cells; "
                        "quote cells that contain commas",
                        kind="text",
                    )
                    records.append((reader.line_num, fault))
                    continue
                records.append((reader.line_num, {key: _csv_cell(text) for key, text in record.items()}))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path.name} line {reader.line_num}: broken CSV: {error}") from error
    return RecordRows(path, records, unit="line")


def _csv_cell(text: str) -> object:
    if text.startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return text


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
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path}: not a parquet file that can be read: {str(error)[:200]}") from error
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

    def __len__(self) -> int:
        return self._total

    def cells(self, index: int) -> Mapping[str, Any]:
        """The row without bytes: a list of pictures keeps its length, its tables only their `path`."""
        return plain_cells(self._light.slice(index, 1))

    def pictures(self, index: int, column: str) -> object:
        """The whole cell, from the row group that holds it."""
        place, row = self._place(index)
        group = bisect.bisect_right(self._groups[place], row) - 1
        key = (place, group, column)
        if key not in self._cache:
            self._cache[key] = self._files[place].read_row_group(group, columns=[column]).column(column)
            while (
                len(self._cache) > 1 and sum(part.nbytes for part in self._cache.values()) > self._cache_bytes
            ):
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key][row - self._groups[place][group]].as_py()

    def where(self, index: int) -> str:
        """Such as `train.parquet row 7`, from 0."""
        place, row = self._place(index)
        return f"{self._paths[place].name} row {row}"

    def name(self, index: int) -> str:
        """File stem and row, from 0."""
        place, row = self._place(index)
        return f"{self._paths[place].stem}/{row}"

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
    schema = file.schema
    leaves = (schema.column(n) for n in range(len(schema)))
    raw = ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
    return [leaf.path for leaf in leaves if leaf.physical_type not in raw or leaf.logical_type.type != "NONE"]
