"""docs/performance.md names switches and tests that exist."""

import re
from pathlib import Path

from foveal.config import ModelConfig, OptimizerConfig

ROOT = Path(__file__).resolve().parents[1]


def savings() -> list[list[str]]:
    """Rows of the table of savings, cell by cell."""
    page = (ROOT / "docs" / "performance.md").read_text()
    part = page.split("### Nothing that cannot matter")[1].split("\n### ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return rows[1:]


def test_every_saving_has_a_switch_and_a_test_that_exist() -> None:
    known = {f"optimizer.{name}" for name in OptimizerConfig.model_fields}
    known |= {f"model.{name}" for name in ModelConfig.model_fields} | {"objective.removed_gradient"}
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    assert len(savings()) >= 8
    for saving, switch, test in savings():
        (key,) = re.findall(r"`([a-z_]+\.[a-z_]+) = ", switch)
        assert key in known, saving
        assert f"def {test.strip('`')}(" in tests, saving
