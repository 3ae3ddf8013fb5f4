"""The examples of README and guide are real: they compile, their imports exist, their configs load."""

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/guide.md", "docs/perturbations.md", "docs/security.md")
METHODS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "methods").glob("*.md"))
LINKED = (*PAGES, "docs/papers.md", "docs/shortcut.md", "docs/guard.md", *METHODS)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


EXAMPLES = [(page, number, text) for page in PAGES for number, text in enumerate(blocks(page, "python"))]


@pytest.mark.parametrize(("page", "number", "text"), EXAMPLES, ids=[f"{p}-{n}" for p, n, _ in EXAMPLES])
def test_an_example_runs_up_to_its_main_block(
    page: str, number: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = ast.parse(text)
    exec(compile(tree, f"{page}[{number}]", "exec"), {"__name__": "example"})
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert all(hasattr(sys.modules[node.module], alias.name) for alias in node.names)


def test_the_readme_objective_loads_by_import_path_and_adds_its_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foveal.objectives.extension import build_objective

    text = next(text for text in blocks("README.md", "python") if "class Curious" in text)
    (tmp_path / "my_objective.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    found = build_objective({"type": "my_objective:Curious", "bonus": 0.02, "base": {"type": "dapo"}})
    assert found.model_dump()["bonus"] == 0.02
    assert found.model_dump()["base"]["type"] == "dapo"


def test_the_python_of_the_readme_trains_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import foveal

    class Frame:
        def __getitem__(self, names: list[str]) -> "Frame":
            assert names == ["step", "reward/accuracy", "kl_prcp/mean"]
            return self

        def tail(self) -> str:
            return "the last steps"

    class Run:
        metrics = Frame()

    asked: dict[str, Any] = {}

    def train(**words: Any) -> Run:
        asked.update(words)
        return Run()

    monkeypatch.setattr(foveal, "train", train, raising=False)
    text = next(text for text in blocks("README.md", "python") if "foveal.train(" in text)
    exec(compile(text, "README.md", "exec"), {"__name__": "__main__"})
    rewards = asked.pop("rewards")
    assert asked == {"model": "tiny", "data": "world", "objective": "papo", "steps": 20}
    assert rewards[0].weight == 0.9
    assert [rewards[1](None, text) for text in ("I see A red circle", "none")] == [1, 0]


def test_the_config_of_the_readme_is_accepted() -> None:
    from foveal.config import RunConfig

    (table,) = (tomllib.loads(text) for text in blocks("README.md", "toml"))
    config = RunConfig.model_validate(table)
    assert config.validation is not None and config.objective.model_dump()["kl_prcp_coef"] == 0.02


def test_the_config_of_the_guide_is_accepted() -> None:
    from foveal.config import RunConfig

    table = tomllib.loads(blocks("docs/guide.md", "toml")[0])
    assert RunConfig.model_validate(table).sampling.group_size == table["sampling"]["group_size"]


def test_the_papers_reward_of_the_guide_is_accepted() -> None:
    from foveal import rewards
    from foveal.spec import build_component

    tables = next(text for text in blocks("docs/guide.md", "toml") if "mathruler" in text)
    found = [build_component(t, rewards.REGISTRY, kind="reward") for t in tomllib.loads(tables)["rewards"]]
    assert [reward.model_dump()["weight"] for reward in found] == [0.9, 0.1]


@pytest.mark.parametrize("page", LINKED)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), f"{page} links to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page} links to {target}; headings: {sorted(anchors)}"
