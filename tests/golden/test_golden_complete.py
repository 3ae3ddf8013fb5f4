"""No case of the golden folder is left out: each is a parameter of at least one test beside this one."""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from golden.golden_cases import FOLDER

FILES = sorted(path.stem for path in FOLDER.glob("*.json"))


@cache
def parameters() -> tuple[Mapping[str, Any], ...]:
    """The cases that the tests of this folder are run on, read off their marks."""
    found = []
    for path in sorted(Path(__file__).parent.glob("test_golden_*.py")):
        if path.name != Path(__file__).name:
            found += list(_cases_of(path))
    return tuple(found)


def _cases_of(path: Path) -> Iterator[Mapping[str, Any]]:
    spec = importlib.util.spec_from_file_location(f"cases_of_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for test in vars(module).values():
        for mark in getattr(test, "pytestmark", []):
            if mark.name == "parametrize":
                for given in mark.args[1]:
                    yield from (value for value in _values(given) if isinstance(value, Mapping))


def _values(given: Any) -> tuple[Any, ...]:
    """Of one parameter set: a case as it is, or beside other arguments, or in `pytest.param`."""
    if isinstance(given, Mapping):
        return (given,)
    return tuple(given.values if hasattr(given, "values") else given)


def test_folder_holds_golden_files() -> None:
    assert FILES, f"no *.json in {FOLDER}"


@pytest.mark.parametrize("file", FILES)
def test_every_case_is_run(file: str) -> None:
    cases = json.loads((FOLDER / f"{file}.json").read_text())["cases"]
    assert cases
    left_out = [case["id"] for case in cases if case not in parameters()]
    assert not left_out, f"{file}: no test runs {left_out}"


def test_no_test_of_the_folder_is_skipped_or_expected_to_fail() -> None:
    for path in Path(__file__).parent.glob("test_golden_*.py"):
        text = path.read_text()
        if path.name != Path(__file__).name:
            assert not any(word in text for word in ("mark.skip", "pytest.skip", "xfail", "importorskip"))
