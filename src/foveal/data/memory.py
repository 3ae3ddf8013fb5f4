"""Rows that are already in memory: a list of dicts, a `datasets.Dataset`, a DataFrame or a table of Arrow."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from foveal.data.errors import DataError
from foveal.data.hub import DatasetRows
from foveal.data.readers import Rows


class MemoryRows(Rows):
    """A list of dicts; pictures may be PIL images, arrays of H x W x 3, bytes, paths or base64."""

    def __init__(self, records: Sequence[Mapping[str, Any]], *, label: str) -> None:
        """`label` names the rows in messages and ids. Raises: DataError for no rows, or no dicts."""
        if not records:
            raise DataError(f"{label}: no rows; expected one dict per problem")
        for number, record in enumerate(records):
            if not isinstance(record, Mapping):
                raise DataError(
                    f"{label} row {number}: expected a dict with question, image and answer, "
                    f"got {type(record).__name__}"
                )
        self._records, self._label = records, label
        self.columns = tuple(dict.fromkeys(str(key) for record in records for key in record))
        self.folder = Path()

    def __len__(self) -> int:
        return len(self._records)

    def cells(self, index: int) -> Mapping[str, Any]:
        """The row, numbers and arrays of numpy as plain ones."""
        return {str(key): plain(value) for key, value in self._records[index].items()}

    def where(self, index: int) -> str:
        """Such as `rows row 7`, from 0."""
        return f"{self._label} row {index}"

    def name(self, index: int) -> str:
        """Label and row, from 0."""
        return f"{self._label}/{index}"


def plain(value: object) -> Any:  # noqa: ANN401
    """A value without numpy: scalars as Python's, pictures as PIL images, other arrays as lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8 and (value.ndim == 2 or (value.ndim == 3 and value.shape[-1] in (3, 4))):
            return PIL.Image.fromarray(value)
        return [plain(part) for part in value.tolist()]
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value


def rows_of(rows: object, *, label: str) -> Rows:
    """The rows of any kind of table in memory. Raises: DataError for another object."""
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        return MemoryRows(rows, label=label)
    kind, package = type(rows).__name__, type(rows).__module__.partition(".")[0]
    table: Any = rows
    if package == "datasets" and kind == "Dataset":
        return DatasetRows(table, label=label, folder=Path())
    if package == "datasets" and kind in ("DatasetDict", "IterableDatasetDict"):
        raise DataError(f"{label}: a {kind} has several splits; give one of them, such as data['train']")
    if package == "datasets":
        raise DataError(f"{label}: a stream of rows has no length; make a list or a Dataset of it first")
    if package == "pandas" and kind == "DataFrame":
        return MemoryRows(table.to_dict("records"), label=label)
    if package == "pyarrow" and kind == "Table":
        return MemoryRows(table.to_pylist(), label=label)
    if isinstance(rows, Iterable) and not isinstance(rows, str | bytes | Mapping):
        return MemoryRows(list(rows), label=label)
    raise DataError(
        f"{label}: cannot read rows from {type(rows).__name__}; give a list of dicts, a datasets.Dataset, "
        "a DataFrame, or the path of a file"
    )
