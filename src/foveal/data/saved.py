"""Problems that were in memory, written down as they were: `[data] type = "problems"`.

FILE.jsonl has a line for each problem; pictures stand beside it in a folder of the same stem.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from PIL.Image import Image
from pydantic import TypeAdapter

from foveal.data.errors import DataError
from foveal.data.pictures import Limits, Stored, decode
from foveal.data.problems import DataSource
from foveal.problem import Problem, Problems

_PARTS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(kind) for name, kind in get_type_hints(Problem).items() if name != "images"
}
"""All fields of a problem but its pictures, as JSON holds them."""


class SavedProblems(DataSource):
    """Problems as they were given from Python: nothing of them is interpreted again."""

    type: str = "problems"
    path: str
    """The JSONL file."""

    def load(self) -> Sequence[Problem]:
        """The problems; pictures are decoded on each access.

        Raises: DataError, when the file cannot be read.
        """
        return _Saved(Path(self.path), self.prompt_suffix)


class _Saved(Problems):
    def __init__(self, file: Path, suffix: str) -> None:
        self._file, self._suffix = file, suffix
        try:
            with file.open(encoding="utf-8") as lines:
                self._records = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise DataError(
                f"{file} cannot be read: {error}; it holds the problems of a run that was started from "
                f"Python; restore it, or start a new run"
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def problem(self, place: int) -> Problem:
        """As it was written, with its pictures decoded."""
        record: dict[str, Any] = self._records[place]
        values = {name: _PARTS[name].validate_python(record[name]) for name in _PARTS if name in record}
        if self._suffix:
            values["question"] = f"{values['question']}\n\n{self._suffix}"
        images = tuple(self._picture(name, values["id"]) for name in record["images"])
        return Problem(**values, images=images)

    def _picture(self, name: str, problem: str) -> Image:
        picture = Stored(content=self._file.parent / name, where=f"problem {problem!r} ({name})")
        return decode(picture, Limits(max_pixels=1 << 28))


def save_problems(
    problems: Sequence[Problem], file: Path, *, save: Callable[[Image, str], str]
) -> SavedProblems:
    """Write problems and their pictures, to be read again by the config that is returned.

    Raises: DataError for a `meta` that holds more than plain data.
    """
    with file.open("w", encoding="utf-8") as lines:
        for number, problem in enumerate(problems):
            try:
                record = {name: part.dump_python(getattr(problem, name)) for name, part in _PARTS.items()}
                record["images"] = [
                    save(image, f"{number:06d}-{n}") for n, image in enumerate(problem.images)
                ]
                line = json.dumps(record, ensure_ascii=False) + "\n"
                line.encode()
            except (TypeError, ValueError, RecursionError) as error:
                raise DataError(
                    f"problem {number} ({problem.id!r}) cannot be written to the run folder: {error}; keep "
                    f"only text that UTF-8 can hold, numbers, lists and tables in a problem and its meta"
                ) from error
            lines.write(line)
    return SavedProblems(path=str(file.absolute()))
