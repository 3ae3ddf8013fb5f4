"""`foveal data`: what is understood of a data set, and whether a run can use it."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli.checks import Commands, check_words, make_folder
from foveal.spec import FovealError

if TYPE_CHECKING:
    from foveal.config import RunConfig
    from foveal.policy.processing import Processor
    from foveal.types import Problem

SHEET_ROWS = 12
"""Rows on the contact sheet, at least."""

SEARCHED = 1000
"""Rows among which usable ones are looked for."""

PROMPT_CHARACTERS = 20_000
"""Of a longer prompt, beginning and end are printed."""


def add(commands: Commands) -> None:
    """The options of `foveal data`."""
    command = commands.add_parser("data", help="look at a data set; check it before a run")
    parts = command.add_subparsers(dest="part", metavar="show|check", required=True)
    show = parts.add_parser(
        "show",
        help="what is understood: columns, prompts as the model reads them, a contact sheet",
        description="Print which column was taken for what, and the first rows exactly as the model reads "
        "them; write their pictures to a contact sheet.",
    )
    _common(show)
    show.add_argument("--rows", type=int, default=3, help="rows to print (3)")
    show.add_argument("--out", type=Path, default=Path("data.png"), help="contact sheet (data.png)")
    show.set_defaults(run="foveal.cli.data:show")
    check = parts.add_parser(
        "check",
        help="rows, pictures, token lengths, and every row that cannot be used",
        description="Look at every row: decode its pictures, measure its prompt, grade its answer against "
        "itself. Exit status 2 when rows cannot be used.",
    )
    _common(check)
    check.add_argument(
        "--against", metavar="VALIDATION", help="other data that must not share problems with it"
    )
    check.add_argument("--json", action="store_true", help="print the table as JSON")
    check.add_argument("--write", type=Path, metavar="FILE.jsonl", help="list every bad row in a file")
    check.set_defaults(run="foveal.cli.data:check")


def _common(command: Any) -> None:  # noqa: ANN401
    command.add_argument(
        "data", help="parquet, JSONL, image folder, hub id, 'world', or a config whose [data] is meant"
    )
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="fields of [data], or section.key=value"
    )
    command.add_argument("--model", help="model folder or hub id whose prompts are made ('tiny')")


def show(*, data: str, overrides: Sequence[str], model: str | None, rows: int, out: Path) -> int:
    """`foveal data show`."""
    from foveal.policy.reader import load_processor
    from foveal.train.setup import open_problems, resolve_model

    if rows < 1:
        raise FovealError(f"--rows is {rows}; expected at least 1")
    if out.is_dir():
        raise FovealError(
            f"--out {out} is a folder; expected the name of a picture in it, such as {out}/data.png"
        )
    make_folder(out.parent, option="--out")
    config = data_config(data, overrides=overrides, model=model)
    problems = open_problems(config.data)
    processor = load_processor(resolve_model(config.model.path))
    print(f"{data}: {len(problems):,} rows")
    understood = getattr(problems, "understood", None)
    for line in understood.lines() if understood is not None else [f"type      {config.data.type}"]:
        print(f"  {line}")
    print(f"\nas {config.model.path} reads them:")
    shown: list[tuple[str, Problem]] = []
    printed = 0
    for where, found in _rows(problems):
        if isinstance(found, FovealError):
            if printed < rows:
                print(f"\ncannot be used: {found}")
            continue
        if printed < rows:
            printed += _print_row(where, found, processor)
        shown.append((where, found))
        if printed >= rows and len(shown) >= max(rows, SHEET_ROWS):
            break
    if not shown:
        raise FovealError(f"none of the first {min(len(problems), SEARCHED):,} rows of {data} can be used")
    _write_sheet(shown, out, suffix=config.data.prompt_suffix)
    print(f"\nwritten: {out} (pictures of {len(shown)} rows)")
    return 0


def data_config(data: str, *, overrides: Sequence[str], model: str | None) -> "RunConfig":
    """The config of a data set named on the command line; keys without a section are those of [data].

    A config (FILE.toml, or the name of a shipped one) gives its tables instead.
    """
    from foveal.config import load
    from foveal.tables import shipped
    from foveal.train.assess import DEFAULTS

    check_words(model=model, data=data)
    named = [word if "." in word.partition("=")[0] else f"data.{word}" for word in overrides]
    source = shipped(data) if not Path(data).exists() else Path(data)
    if source.suffix == ".toml" and source.is_file():
        return load(source, overrides=named, model=model)
    return load(dict(DEFAULTS), overrides=named, model=model, data=data)


def _rows(problems: "Sequence[Problem]") -> "Iterator[tuple[str, Problem | FovealError]]":
    """The rows, with where they stand; the error of each that cannot be used."""
    where = getattr(problems, "where", lambda index: f"problem {index}")
    for index in range(min(len(problems), SEARCHED)):
        try:
            yield where(index), problems[index]
        except FovealError as error:
            yield where(index), error


def _print_row(where: str, problem: "Problem", processor: "Processor") -> int:
    """Print a row; 1, or 0 for one that the model cannot read."""
    from foveal.policy.reader import prompt_text

    sizes = [image.size for image in problem.images]
    try:
        text, tokens, visual = prompt_text(processor, problem, sizes)
    except FovealError as error:
        print(f"\n{where}: cannot be used: {error}")
        return 0
    if len(text) > PROMPT_CHARACTERS:
        half = PROMPT_CHARACTERS // 2
        text = f"{text[:half]}\n[{len(text) - 2 * half:,} characters]\n{text[-half:]}"
    pictures = ", ".join(f"{width} x {height}" for width, height in sizes) or "none"
    print(f"\n--- {where}, id {problem.id}")
    print(f"    pictures: {pictures}; prompt: {tokens:,} tokens, {visual:,} of them visual")
    print(text)
    print(f"--- answer: {problem.answer}")
    choices = problem.meta.get("choices")
    if choices:
        print(f"    choices: {choices}")
    return 1


def _write_sheet(shown: "Sequence[tuple[str, Problem]]", out: Path, *, suffix: str) -> None:
    from foveal.data.sheet import contact_sheet, save_sheet

    try:
        save_sheet(contact_sheet(shown, suffix=suffix), out)
    except OSError as error:
        raise FovealError(
            f"--out {out} cannot be written: {error.strerror or error}; choose another --out"
        ) from error


def check(
    *,
    data: str,
    overrides: Sequence[str],
    model: str | None,
    against: str | None,
    json: bool,
    write: Path | None,
) -> int:
    """`foveal data check`."""
    from foveal.cli.screen import Bar
    from foveal.console import Console
    from foveal.data.bad_rows import described
    from foveal.data.summary import lines_of
    from foveal.train.survey import survey
    from foveal.train.usable import way_out

    if write is not None:
        make_folder(write.parent, option="--write")
    config = data_config(data, overrides=overrides, model=model)
    other = data_config(against, overrides=(), model=model).data if against is not None else None
    if other is None and config.validation is not None:
        other, against = config.validation.data, "the validation of the config"
    console = Console(stderr=True)
    seen = survey(config, against=other, name=against or "", bar=lambda title: Bar(console, title))
    found, table = seen.findings, seen.table
    if write is not None:
        _write_rows(write, [row.to_json() for row in found.bad])
    if json:
        Console().print_json(data=table)
    else:
        _print_table(data, lines_of(table))
    if write is not None:
        print(f"written: {write} ({len(found.bad):,} bad rows)", file=sys.stderr)
    if found.bad:
        print(f"foveal: {described(found.bad, found.looked, way_out=way_out(config.data))}", file=sys.stderr)
        return 2
    return 0


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import json

    try:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise FovealError(
            f"--write {path} cannot be written: {error.strerror or error}; choose another file"
        ) from error


def _print_table(title: str, lines: Sequence[tuple[str, str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from foveal.console import Console

    table = Table(title=title, title_justify="left", show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)
