"""README and docs/shortcut.md say what the committed shortcut study holds; the configs are its choices."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import shortcut_study
from PIL import Image

from foveal.config import load, shipped
from foveal.evaluation.stats import exact_share

ROOT = Path(__file__).resolve().parents[2]
STUDY: dict[str, Any] = json.loads((ROOT / "docs" / "results" / "shortcut_study.json").read_text())
FINAL = [row for row in STUDY["rows"] if row["stage"] == "final" and row["seed"] is not None]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """docs/figures/readme.py as a module."""
    spec = importlib.util.spec_from_file_location("readme_pages", ROOT / "docs" / "figures" / "readme.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_pages_are_those_of_the_results(pages: ModuleType) -> None:
    for page in pages.PAGES:
        text = page.read_text()
        assert "by docs/figures/readme.py" in text
        assert pages.filled(text, STUDY) == text, "stale: run python docs/figures/readme.py"


def test_the_picture_is_that_of_the_results(pages: ModuleType) -> None:
    with Image.open(pages.PICTURE) as picture:
        assert picture.info["Source"] == pages.source(), "stale: run python docs/figures/readme.py"


def test_a_changed_number_makes_the_tables_stale(pages: ModuleType) -> None:
    changed = json.loads(json.dumps(STUDY))
    changed["arms"]["grpo"]["fell"] -= 1
    text = (ROOT / "README.md").read_text()
    assert pages.filled(text, changed) != text


def test_the_shares_are_counted_from_the_runs() -> None:
    for arm, found in STUDY["arms"].items():
        own = [row for row in FINAL if row["arm"] == arm]
        assert sorted(row["seed"] for row in own) == list(range(found["runs"])), arm
        assert found["fell"] == sum(row["accuracy_wrong"] < STUDY["fell_below"] for row in own)
        assert found["share"] == exact_share(found["fell"], found["runs"]).to_json()
    for arm in ("grpo", "papo", "cppo"):
        assert STUDY["arms"][arm]["runs"] >= 8


def test_haze_and_weights_follow_from_the_searches_and_stand_in_the_configs() -> None:
    assert shortcut_study.chosen_haze(STUDY["rows"]) == STUDY["haze"]
    assert shortcut_study.best_weights(STUDY["rows"]) == STUDY["best"]
    papo, cppo = (load(shipped(f"shortcut_{method}")).model_dump() for method in ("papo", "cppo"))
    assert papo["data"]["haze"] == cppo["data"]["haze"] == STUDY["haze"]
    assert papo["objective"]["kl_prcp_coef"] == STUDY["best"]["papo"]
    assert cppo["objective"]["cpl_coef"] == STUDY["best"]["cppo"]
    assert all(row["haze"] == STUDY["haze"] for row in FINAL)
