"""Problems from files, for the `[data]` table of a config; pictures are decoded only when asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any, ClassVar, Literal, overload

from pydantic import Field

from foveal.data import columns as fields
from foveal.data.errors import DataError
from foveal.data.pictures import Limits, Stored, decode, size, stored
from foveal.data.readers import Rows
from foveal.data.sources import open_rows
from foveal.spec import Component
from foveal.types import Problem

PROMPT_SUFFIX = (
    "You first think through the reasoning process as an internal monologue, enclosed within "
    "<think> </think> tags. Then, provide your final answer enclosed within \\boxed{}."
)
"""PAPO's published instruction (arXiv:2507.06448, released prompt template)."""


class DataSource(Component):
    """Something that gives problems."""

    required: ClassVar[tuple[str, ...]] = ("load",)

    prompt_suffix: str = ""
    """Put behind each question after a blank line; empty for none."""

    def load(self) -> Sequence[Problem]:
        """The problems; pictures may be made or decoded on each access.

        Raises: DataError for what can be seen without opening pictures.
        """
        raise NotImplementedError


class DataConfig(DataSource):
    """Problems from a file, a folder or the hub."""

    type: Literal["auto", "parquet", "jsonl", "folder", "saved", "hub"] = "auto"
    """What `path` is; "auto" finds out."""
    path: str
    """A parquet, JSONL, JSON or CSV file, a folder of them or of pictures with metadata, or a hub id."""
    split: str | None = None
    """The split of a folder or of a hub data set; "train" where a hub data set has it."""
    question_column: str | None = None
    """Column of the question; by default problem, question, prompt or query."""
    images_column: str | None = None
    """Column of the pictures; by default images, image, file_names, file_name, image_paths or image_path."""
    answer_column: str | None = None
    """Column of the true answer; by default answer, ground_truth or gold."""
    id_column: str | None = None
    """Column of a unique id; by default id, problem_id, question_id, qid or uid, else file and row."""
    choices_column: str | None = None
    """Column of the options of multiple choice; by default choices or options."""
    prompt_suffix: str = PROMPT_SUFFIX
    """Put behind each question after a blank line; by default PAPO's instruction; empty for none."""
    limit: int | None = Field(default=None, ge=1)
    """The first so many rows; all by default."""
    max_image_pixels: int = Field(default=16_777_216, ge=1)
    """Most pixels of a picture as stored, by default 4096 x 4096; the model's processor scales further."""
    oversize: Literal["refuse", "resize"] = "refuse"
    """What happens to a larger picture."""
    text_only: bool = False
    """Whether rows without a picture are taken."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """Rows that cannot be used: name all of them and stop before the run starts, or leave them out, count
    them and list them in the run folder (bad_rows.jsonl)."""
    check_pictures: Literal["all", "sample", "headers"] = "all"
    """Pictures decoded before the first step: all of them, those of 1,000 rows spread evenly, or none. The
    header of each is read in any case. Pictures that were decoded once are remembered between runs."""

    def load(self) -> "FileProblems":
        """The problems; nothing is decoded yet.

        Raises: DataError for a missing path or column, a broken file, an unknown kind.
        """
        return FileProblems(open_rows(self.path, kind=self.type, split=self.split), self)


class FileProblems(Sequence[Problem]):
    """Rows as problems; pictures are decoded on each access."""

    def __init__(self, rows: Rows, config: DataConfig) -> None:
        """Finds the columns. Raises: DataError for a missing one."""
        chosen = {
            "question": config.question_column,
            "images": config.images_column,
            "answer": config.answer_column,
            "id": config.id_column,
            "choices": config.choices_column,
        }
        self._rows, self._config = rows, config
        self._columns = fields.find_columns(
            rows.columns, chosen, where=config.path, text_only=config.text_only
        )
        self._limits = Limits(max_pixels=config.max_image_pixels, oversize=config.oversize)
        self._size = min(len(rows), config.limit or len(rows))
        self._reading = Lock()
        """Rows are read by one thread at a time; pictures are decoded by several."""

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(self._size))]
        place = self._place(index)
        images = tuple(decode(picture, self._limits) for picture in self._pictures(place))
        return replace(self.text(place, pictures=len(images)), images=images)

    def first(self, count: int) -> "FileProblems":
        """The first `count` rows, still unread."""
        limit = min(count, self._size)
        return FileProblems(self._rows, self._config.model_copy(update={"limit": limit}))

    def text(self, index: int, *, pictures: int | None = None) -> Problem:
        """The problem without its pictures, cheap; `pictures` is their number where it is known.

        Raises: DataError for a wrong type, an empty field, or marks that do not match the pictures.
        """
        place = self._place(index)
        cells, where, names = self._cells(place), self._rows.where(place), self._columns
        question = fields.question_text(cells.get(names.question), column=names.question, where=where)
        answer = fields.answer_text(cells.get(names.answer), column=names.answer, where=where)
        count = self._count(place, cells) if pictures is None else pictures
        if count == 0 and not self._config.text_only:
            raise DataError(
                f"{where}: {names.images} has no picture; add one, remove the row, or set text_only = true "
                "to take such rows",
                kind="no_picture",
            )
        question = fields.with_marks(question, count, where=where)
        own = (names.question, names.answer, names.images, names.id, names.choices)
        meta: dict[str, Any] = {
            key: cell for key, cell in cells.items() if key not in own and cell is not None
        }
        meta.setdefault("source", self._config.path)
        if names.choices and cells.get(names.choices):
            meta["choices"] = cells[names.choices]
        suffix = self._config.prompt_suffix
        return Problem(
            id=self.identifier(place),
            question=f"{question}\n\n{suffix}" if suffix else question,
            images=(),
            answer=answer,
            meta=meta,
        )

    def identifier(self, index: int) -> str:
        """The id of a row: its id column, or file stem and row."""
        place, column = self._place(index), self._columns.id
        if column is None:
            return self._rows.name(place)
        return fields.id_text(self._cells(place).get(column), column=column, where=self._rows.where(place))

    def sizes(self, index: int) -> tuple[tuple[int, int], ...]:
        """Width and height of each picture, from the headers, before scaling to the limit.

        Raises: DataError for a picture that is missing, unreadable or huge.
        """
        return tuple(size(picture, self._limits) for picture in self._pictures(self._place(index)))

    def pictures(self, index: int) -> tuple[Stored, ...]:
        """The pictures of a row, not opened yet. Raises: DataError for a cell that holds something else."""
        return self._pictures(self._place(index))

    @property
    def understood(self) -> fields.Columns:
        """Which column is what."""
        return self._columns

    @property
    def limits(self) -> Limits:
        """What size of pictures is taken."""
        return self._limits

    def where(self, index: int) -> str:
        """File and row, for messages."""
        return self._rows.where(self._place(index))

    def _place(self, index: int) -> int:
        place = index + self._size if index < 0 else index
        if not 0 <= place < self._size:
            raise IndexError(f"problem {index} of {self._size} in {self._config.path}")
        return place

    def _count(self, place: int, cells: Any) -> int:
        column = self._columns.images
        if column is None:
            return 0
        value = cells.get(column)
        if value is None and column not in cells:
            return len(self._pictures(place))
        if isinstance(value, Sequence) and not isinstance(value, str):
            return sum(item is not None and item != "" for item in value)
        return int(value is not None and value != "")

    def _pictures(self, place: int) -> tuple[Stored, ...]:
        column = self._columns.images
        if column is None:
            return ()
        with self._reading:
            cell = self._rows.pictures(place, column)
        return stored(cell, folder=self._rows.folder, where=self._rows.where(place))

    def _cells(self, place: int) -> Mapping[str, Any]:
        fault = self._rows.faults.get(place)
        if fault is not None:
            raise DataError(str(fault), kind=fault.kind)
        with self._reading:
            return self._rows.cells(place)


class First(Sequence[Problem]):
    """The first problems of a sequence, made or decoded on each access like its own."""

    def __init__(self, problems: Sequence[Problem], count: int) -> None:
        """`count` is cut to what is there."""
        self._problems, self._size = problems, min(count, len(problems))

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(self._size))]
        place = index + self._size if index < 0 else index
        if not 0 <= place < self._size:
            raise IndexError(f"problem {index} of {self._size}")
        return self._problems[place]


def first(problems: Sequence[Problem], count: int) -> Sequence[Problem]:
    """The first `count` problems without making or decoding any of them."""
    if count >= len(problems):
        return problems
    return problems.first(count) if isinstance(problems, FileProblems) else First(problems, count)


def open_data(
    path_or_hub_id: str,
    *,
    split: str | None = None,
    question_column: str | None = None,
    images_column: str | None = None,
    answer_column: str | None = None,
    id_column: str | None = None,
    choices_column: str | None = None,
    prompt_suffix: str = PROMPT_SUFFIX,
    limit: int | None = None,
) -> FileProblems:
    """The problems at a path or hub id; the fields are those of `DataConfig`.

    Raises: DataError as `DataConfig.load`.
    """
    return DataConfig(
        path=path_or_hub_id,
        split=split,
        question_column=question_column,
        images_column=images_column,
        answer_column=answer_column,
        id_column=id_column,
        choices_column=choices_column,
        prompt_suffix=prompt_suffix,
        limit=limit,
    ).load()
