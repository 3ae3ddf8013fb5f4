"""docs/metrics.md names what the trainer logs."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AREAS = "reward|completion|kl_prcp|policy|loss|sampler|time|validation|perception|cppo|guard"


def logged() -> set[str]:
    """Metric names written out in the trainer and the objectives, and the phases of its clock."""
    found: set[str] = set()
    for folder in ("train", "objectives"):
        for path in (ROOT / "src" / "foveal" / folder).glob("*.py"):
            text = path.read_text(encoding="utf-8")
            found |= set(re.findall(rf'"((?:{AREAS})/[a-z_0-9]+)"', text))
            found |= {f"time/{name}" for name in re.findall(r'\.lap\("([a-z_]+)"\)', text)}
    return found


def test_every_logged_name_is_explained() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    names = logged()
    assert len(names) > 25
    assert not sorted(name for name in names if f"`{name}`" not in page)
