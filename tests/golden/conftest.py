"""Says how many golden cases there are, beside pytest's count of tests."""

import json
from typing import Any

from golden.golden_cases import FOLDER


def pytest_terminal_summary(terminalreporter: Any) -> None:
    files = sorted(FOLDER.glob("*.json"))
    cases = sum(len(json.loads(path.read_text())["cases"]) for path in files)
    terminalreporter.write_line(f"golden: {cases} cases in {len(files)} files of {FOLDER}")
