"""Problems from files, for the `[data]` table of a config; pictures are decoded only when asked for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any, ClassVar, Literal

from pydantic import Field

from foveal.data.archives import Places
from foveal.data.bounded import is_raw, plain_data
from foveal.data.columns import id_text
from foveal.data.errors import DataError, of_kind
from foveal.data.layouts import Fields, Understanding, read_row, value_at
from foveal.data.mapping import own_columns, understand_rows
from foveal.data.marks import Marked, place_marks
from foveal.data.memory import rows_of
from foveal.data.pictures import Limits, decode, size
from foveal.data.readers import Rows
from foveal.data.sources import open_rows
from foveal.data.stored import Stored, filled, stored
from foveal.problem import Problem, Problems, Turn
from foveal.spec import Component

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
    """A parquet, JSONL, JSON, CSV or TSV file, a folder of them or of pictures with metadata, or a hub id."""
    split: str | None = None
    """The split of a folder or of a hub data set; "train" where a hub data set has it."""
    question_column: str | None = None
    """Column of the question, text or a list of turns; by default found (docs/layouts.md). Also a path into a
    table, such as "extra_info.question"."""
    images_column: str | None = None
    """Column of the pictures, or several in their order as "first, second"; by default found."""
    answer_column: str | None = None
    """Column of the true answer; by default found. Also a path, such as "reward_model.ground_truth"."""
    id_column: str | Literal[False] | None = None
    """Column of a unique id; by default the first usual one with few gaps and duplicates, else file and row;
    false for file and row."""
    choices_column: str | Literal[False] | None = None
    """Column of the options of multiple choice; by default found; false for problems without options."""
    answer_kind: Literal["auto", "text", "index", "index_from_1", "any", "all"] = "auto"
    """What a number beside options is: the answer itself ("text"), or the place of an option counted from 0
    or from 1; "auto" decides where only one reading fits the rows. "text" also takes long answers whole. Of a
    list of unequal answers: whether any of them is right, or all have to be given."""
    show_options: bool = True
    """Whether options that the question's text lacks are put behind it, one per line."""
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


class FileProblems(Problems):
    """Rows as problems; pictures are decoded on each access."""

    def __init__(self, rows: Rows, config: DataConfig, understood: Understanding | None = None) -> None:
        """Finds the columns, unless they are `understood`. Raises: DataError for a missing one."""
        self._rows, self._config = rows, config
        self.understood = understood or understand_rows(rows, config)
        """The mapping from columns to fields."""
        self._limits = Limits(max_pixels=config.max_image_pixels, oversize=config.oversize)
        self._size = min(len(rows), config.limit or len(rows))
        self._places = Places([*([] if rows.folder is None else [rows.folder]), *rows.roots])
        self._own = own_columns(self.understood)
        self._whole = tuple(
            column for column in self.understood["question"].columns if column.partition(".")[0] in rows.heavy
        )
        """Columns of turns that hold picture bytes: read whole, for their text too."""
        self._reading = Lock()
        """Rows are read by one thread at a time; pictures are decoded by several."""

    @property
    def path(self) -> str:
        """The path or name that the rows were opened by."""
        return self._config.path

    def __len__(self) -> int:
        return self._size

    def problem(self, place: int) -> Problem:
        """The row, with its pictures decoded."""
        cells = self._cells(place)
        fields = self._read(place, cells)
        found = self._stored(place, fields)
        marked = self._marked(place, fields, self._labels(cells, len(found)))
        images = tuple(decode(found[n], self._limits) for n in marked.order)
        return replace(self._problem(place, cells, fields, marked), images=images)

    def first(self, count: int) -> "FileProblems":
        """The first `count` rows, still unread."""
        limit = min(count, self._size)
        config = self._config.model_copy(update={"limit": limit})
        return FileProblems(self._rows, config, self.understood)

    def text(self, index: int, *, pictures: int | None = None) -> Problem:
        """The problem without its pictures, cheap; `pictures` is their number where it is known.

        Raises: DataError for a wrong type, an empty field, or marks that do not match the pictures.
        """
        place = self.place(index)
        cells = self._cells(place)
        fields = self._read(place, cells)
        count = self._count(place, cells, fields) if pictures is None else pictures
        return self._problem(place, cells, fields, self._marked(place, fields, self._labels(cells, count)))

    def identifier(self, index: int) -> str:
        """The id of a row: its id column, or file stem and row."""
        place = self.place(index)
        return self._identifier(place, self._cells(place))

    def sizes(self, index: int) -> tuple[tuple[int, int], ...]:
        """Width and height of each picture in the prompt's order, from the headers, before any scaling.

        Raises: DataError for a picture that is missing, unreadable or huge.
        """
        return tuple(size(picture, self._limits) for picture in self.pictures(index))

    def pictures(self, index: int) -> tuple[Stored, ...]:
        """The pictures of a row in the order of their marks in the prompt, not opened yet.

        Raises: DataError for a picture that is missing, or a cell that holds none.
        """
        place = self.place(index)
        cells = self._cells(place)
        fields = self._read(place, cells)
        found = self._stored(place, fields)
        marked = self._marked(place, fields, self._labels(cells, len(found)))
        return tuple(found[n] for n in marked.order)

    @property
    def limits(self) -> Limits:
        """What size of pictures is taken."""
        return self._limits

    def where(self, index: int) -> str:
        """File and row, for messages."""
        return self._rows.where(self.place(index))

    def place(self, index: int) -> int:
        """As of any problems; the error names the data. Raises: IndexError."""
        try:
            return super().place(index)
        except IndexError as error:
            raise IndexError(f"{error} in {self._config.path}") from None

    def _cells(self, place: int) -> Mapping[str, Any]:
        fault = self._rows.faults.get(place)
        if fault is not None:
            raise DataError(str(fault), kind=fault.kind)
        with self._reading:
            cells = self._rows.cells(place)
            if self._whole:
                cells = {**cells, **{name: self._rows.pictures(place, name) for name in self._whole}}
            return cells

    def _read(self, place: int, cells: Mapping[str, Any]) -> Fields:
        return read_row(
            cells,
            self.understood,
            where=self._rows.where(place),
            show_options=self._config.show_options,
            answer_kind=self._config.answer_kind,
            classes=self._rows.classes,
        )

    def _identifier(self, place: int, cells: Mapping[str, Any]) -> str:
        source = self.understood["id"]
        if not source.columns:
            return self._rows.name(place)
        column = source.columns[0]
        with of_kind("id"):
            return id_text(value_at(cells, column), column=column, where=self._rows.where(place))

    def _count(self, place: int, cells: Mapping[str, Any], fields: Fields) -> int:
        source = self.understood["images"]
        if fields.pictures is not None:
            return len(fields.pictures) or len(self._stored(place, fields))
        if any(column not in cells and "." not in column for column in source.columns):
            return len(self._stored(place, fields))
        # A table of bytes and path has lost its bytes here and may look empty, so every table counts.
        return sum(_count(value_at(cells, column)) for column in source.columns)

    def _labels(self, cells: Mapping[str, Any], count: int) -> tuple[int, ...]:
        """The numbers by which marks name the pictures: of numbered columns theirs, else 1, 2, ..."""
        columns = self.understood["images"].columns
        if len(columns) > 1:
            numbers = [re.search(r"(\d+)$", column) for column in columns]
            if all(numbers):
                there = [
                    int(number[1])
                    for column, number in zip(columns, numbers, strict=True)
                    if number and (column not in cells or cells[column] is not None)
                ]
                if len(there) == count:
                    return tuple(there)
        return tuple(range(1, count + 1))

    def _stored(self, place: int, fields: Fields) -> tuple[Stored, ...]:
        with of_kind("picture"):
            return self._stored_cells(place, fields)

    def _stored_cells(self, place: int, fields: Fields) -> tuple[Stored, ...]:
        where = self._rows.where(place)
        if fields.pictures is not None:
            values: list[object] = list(fields.pictures)
        else:
            values = []
            with self._reading:
                for column in self.understood["images"].columns:
                    head = column.partition(".")[0]
                    top = column if column in self._rows.columns else head
                    cell = {top: self._rows.pictures(place, top)}
                    values.extend(filled(value_at(cell, column)))
        return stored(values, folder=self._rows.folder, where=where, places=self._places)

    def _marked(self, place: int, fields: Fields, labels: tuple[int, ...]) -> Marked:
        """The texts with marks. Raises: DataError for a row without a picture, or marks that do not match."""
        where, source = self._rows.where(place), self.understood["images"]
        if not labels and not self._config.text_only:
            named = " and ".join(source.columns[:2]) or "the row"
            raise DataError(
                f"{where}: {named} has no picture; add one, remove the row, or set text_only = true "
                "to take such rows",
                kind="no_picture",
            )
        texts = [*(turn.text for turn in fields.turns), fields.question]
        users = [n for n, turn in enumerate(fields.turns) if turn.role == "user"]
        return place_marks(texts, labels, front=users[0] if users else len(texts) - 1, where=where)

    def _problem(self, place: int, cells: Mapping[str, Any], fields: Fields, marked: Marked) -> Problem:
        *earlier, question = marked.texts
        meta = {
            key: plain_data(cell)
            for key, cell in cells.items()
            if key not in self._own and cell is not None and not is_raw(cell)
        }
        meta.setdefault("source", self._config.path)
        # Rewards take these two for the options: a cell that is none of the model's must not be there.
        for name in ("choices", "options"):
            meta.pop(name, None)
        if fields.options is not None:
            meta["choices"] = fields.options.normal()
        suffix = self._config.prompt_suffix
        told = " ".join(suffix.split())
        if told and told not in " ".join(question.split()):
            question = f"{question}\n\n{suffix}"
        return Problem(
            id=self._identifier(place, cells),
            question=question,
            images=(),
            answer=fields.answer,
            meta=meta,
            system=fields.system,
            turns=tuple(
                Turn(role=turn.role, text=text) for turn, text in zip(fields.turns, earlier, strict=True)
            ),
        )


def _count(value: object) -> int:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return sum(item is not None and item != "" for item in value)
    return sum(1 for _ in filled(value)) if not isinstance(value, Mapping) else 1


class First(Problems):
    """The first problems of a sequence, made or decoded on each access like its own."""

    def __init__(self, problems: Sequence[Problem], count: int) -> None:
        """`count` is cut to what is there."""
        self._problems, self._size = problems, min(count, len(problems))

    def __len__(self) -> int:
        return self._size

    def problem(self, place: int) -> Problem:
        """That of the sequence."""
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
    choices_column: str | Literal[False] | None = None,
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


def problems_from(
    rows: object, *, name: str = "rows", config: DataConfig | None = None, **fields: Any
) -> FileProblems:
    """The problems in rows that are in memory, through the same layouts as those of a file.

    `rows` is a list of dicts (pictures as PIL images, arrays, bytes, paths or base64), a `datasets.Dataset`,
    a DataFrame or a table of Arrow. `name` stands in ids and messages; `fields` are those of `DataConfig`,
    which `config` gives otherwise.
    Raises: DataError as `DataConfig.load`.
    """
    settings = config.model_copy(update=fields) if config is not None else DataConfig(path=name, **fields)
    return FileProblems(rows_of(rows, label=name), settings)
