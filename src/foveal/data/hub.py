"""Data sets of the Hugging Face hub, and folders that `datasets.save_to_disk` wrote."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveal.data.errors import DataError, listing, nearest
from foveal.data.readers import Rows, plain_cells


class DatasetRows(Rows):
    """A `datasets.Dataset`; pictures stay undecoded, as their Arrow storage has them."""

    def __init__(self, dataset: Any, *, label: str, folder: Path | None) -> None:
        """`label` names the data set in messages and ids. Raises: DataError for an empty one."""
        if len(dataset) == 0:
            raise DataError(f"{label}: no rows; expected one row a problem")
        self.columns = tuple(dataset.column_names)
        self.folder, self._label = folder, label
        self.classes = _class_names(dataset)
        light = [
            name for name, kind in zip(self.columns, _kinds(dataset), strict=True) if not _holds_bytes(kind)
        ]
        self.heavy = frozenset(self.columns) - frozenset(light)
        self._light = dataset.select_columns(light).with_format("arrow") if light else None
        self._whole = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._whole)

    def cells(self, index: int) -> Mapping[str, Any]:
        """The row without its picture columns."""
        return plain_cells(self._light[index]) if self._light is not None else {}

    def pictures(self, index: int, column: str) -> object:
        """The whole cell, undecoded."""
        return self._whole[index].column(column)[0].as_py()

    def values(self, column: str) -> list[Any]:
        """A whole column without picture bytes."""
        if self._light is None or column in self.heavy:
            return [None] * len(self)
        found: list[Any] = self._light.select_columns([column])[:].column(column).to_pylist()
        return found

    def where(self, index: int) -> str:
        """Such as `owner/name[train] row 7`, from 0."""
        return f"{self._label} row {index}"

    def name(self, index: int) -> str:
        """Data set and row, from 0."""
        return f"{self._label}/{index}"


def _kinds(dataset: Any) -> list[Any]:
    schema = dataset.features.arrow_schema
    return [schema.field(name).type for name in dataset.column_names]


def _class_names(dataset: Any) -> dict[str, tuple[str, ...]]:
    """Names of the classes by column, of columns of `ClassLabel`."""
    names = {column: getattr(feature, "names", None) for column, feature in dataset.features.items()}
    return {column: tuple(map(str, found)) for column, found in names.items() if isinstance(found, list)}


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(_holds_bytes(kind.field(n).type) for n in range(kind.num_fields))


def hub_rows(name: str, *, split: str | None) -> DatasetRows:
    """A data set of the hub by its id `owner/name`; downloaded once, then read from the cache of `datasets`.

    Raises: DataError when `datasets` is not installed, or the set cannot be had.
    """
    datasets = _datasets(f"{name!r} is no file here, so it is taken for a data set of the hub")
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # the client raises its own, the network's and the parser's
        raise DataError(
            f"{name!r} is no file here, and the hub did not give it: "
            f"{type(error).__name__}: {str(error)[:300]}; "
            "check the spelling and the network, or download it and give the folder: "
            f"hf download {name} --repo-type dataset --local-dir FOLDER"
        ) from error
    dataset, chosen = _one_split(splits, split, name)
    return DatasetRows(dataset, label=f"{name}[{chosen}]", folder=None)


def saved_rows(folder: Path, *, split: str | None) -> DatasetRows:
    """A folder written by `save_to_disk`. Raises: DataError when it cannot be read."""
    datasets = _datasets(f"{folder} was written by `datasets`")
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: not a folder that `datasets` can read: {error}") from error
    if not isinstance(found, datasets.DatasetDict):
        if split is not None and split != str(found.split):
            raise DataError(
                f"{folder} holds a single data set (split: {found.split}), but split = {split!r}; "
                "leave split out"
            )
        return DatasetRows(found, label=folder.name, folder=folder)
    dataset, chosen = _one_split(found, split, str(folder))
    return DatasetRows(dataset, label=f"{folder.name}[{chosen}]", folder=folder)


def _datasets(why: str) -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            f"{why}, which needs the package `datasets`: {error}; pip install 'foveal[hub]', or give "
            "a parquet file, a JSONL file or a folder"
        ) from error


def _one_split(splits: Mapping[str, Any], split: str | None, name: str) -> tuple[Any, str]:
    if split is None:
        split = "train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else None
    if split is None or split not in splits:
        wanted = (
            "no split is chosen" if split is None else f"there is no split {split!r}{nearest(split, splits)}"
        )
        raise DataError(f"{name}: {wanted}; splits: {listing(splits)}; set split = 'NAME'")
    return splits[split], split
