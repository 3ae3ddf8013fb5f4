"""docs/papers.md: every config and override that it names loads; every published config has its row."""

import re
from pathlib import Path

import pytest

from foveal import config as config_module
from foveal.config import RunConfig, load

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = Path(config_module.__file__).parent / "configs"
TEXT = (ROOT / "docs" / "papers.md").read_text()
RUNS = sorted(set(re.findall(r"`([a-z_0-9]+_vl_[37]b(?: [a-z_.]+=[^ `]+)*)`", TEXT)))


def run(words: str) -> RunConfig:
    name, *overrides = words.split()
    return load(CONFIGS / f"{name}.toml", overrides=overrides)


@pytest.mark.parametrize("words", RUNS)
def test_a_run_that_the_page_names_loads_and_its_overrides_change_it(words: str) -> None:
    name, *overrides = words.split()
    changed = run(words)
    for left_out in overrides:
        assert run(" ".join([name, *(o for o in overrides if o != left_out)])) != changed


def test_every_published_config_has_a_row() -> None:
    assert {file.stem for file in CONFIGS.glob("*_vl_*.toml")} == {words.split()[0] for words in RUNS}


def test_the_page_says_that_nothing_was_reproduced() -> None:
    assert "None of these rows was reproduced here" in TEXT


def test_dapo_with_an_entropy_term_is_dapo_and_one_term() -> None:
    words = "papo_d_qwen2_5_vl_7b objective.kl_prcp_coef=0 objective.removed_entropy_coef=0"
    assert words in RUNS
    found = run(words).objective
    assert found.views == ("clean",) and not found.uses_reference
    assert found.model_dump()["base"] == run("dapo_qwen2_5_vl_7b").objective.model_dump()
    assert found.model_dump()["entropy_coef"] == 0.03
