"""docs/methods: a page for each objective, configs that load, figures that show what the code does."""

import importlib
import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from foveal.config import RunConfig
from foveal.objectives import REGISTRY
from foveal.objectives.cppo import CPPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.rewards import REGISTRY as REWARDS

ROOT = Path(__file__).resolve().parents[1]
METHODS = ROOT / "docs" / "methods"
PAGES = sorted(file for file in METHODS.glob("*.md") if file.stem != "README")
MARGIN = 6.0
"""Pixels that a figure's text stays off its box's edge: widths differ a little between renderers."""
RUN = {"data": {"type": "world"}, "rewards": [{"type": "boxed"}]}


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    """docs/figures/draw.py as a module."""
    folder = ROOT / "docs" / "figures"
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("draw", folder / "draw.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["draw"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


def test_every_objective_has_a_page_that_the_index_names() -> None:
    assert {page.stem for page in PAGES} == set(REGISTRY)
    index = (METHODS / "README.md").read_text()
    assert all(f"({name}.md)" in index for name in REGISTRY)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_all_its_parts(page: Path) -> None:
    text = page.read_text()
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert [name for name in headings if name in ("Formula", "Config", "Watch", "Differs")] == [
        *("Formula", "Config", "Watch", "Differs")
    ]
    assert f"](../images/methods/{page.stem}.svg)" in text
    assert f'type = "{page.stem}"' in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_config_of_a_page_loads_with_just_the_views_it_needs(page: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        found = RunConfig.model_validate({**RUN, **tomllib.loads(block)})
        assert set(found.perturbations) == {*found.objective.views, *sampled(found)} - {"clean"}


def sampled(config: RunConfig) -> set[str]:
    return set(config.objective.sample_views(0, steps=100))


@pytest.mark.parametrize("page", sorted(METHODS.glob("*.md")), ids=lambda page: page.stem)
def test_every_metric_that_a_page_names_is_explained(page: Path) -> None:
    known = (ROOT / "docs" / "metrics.md").read_text()
    areas = "reward|completion|kl_prcp|policy|sampler|validation|perception"
    named = set(re.findall(rf"`((?:{areas})/[a-z_]+)`", page.read_text()))
    graded = {f"reward/{name}" for name in REWARDS}  # `reward/<name>` on the page
    assert not {name for name in named - graded if f"`{name}`" not in known}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_figure_of_a_page_shows_what_the_objective_does(page: Path, figures: ModuleType) -> None:
    svg = ElementTree.parse(ROOT / "docs" / "images" / "methods" / f"{page.stem}.svg")
    shown = next(node.text for node in svg.iter() if node.tag.endswith("}description"))
    flow = figures.flow_of(figures.build_objective(figures.configured(page)))
    assert shown == figures.structure(flow), "stale: run python docs/figures/draw.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_text_of_a_figure_leaves_its_box(page: Path, figures: ModuleType) -> None:
    flow = figures.flow_of(figures.build_objective(figures.configured(page)))
    figure = figures.draw(page.stem, flow)
    found = texts_in_boxes(figure)
    assert all(found) and len(found) >= 2 * len(flow.coefs) + 4


def texts_in_boxes(figure: Figure) -> list[bool]:
    """For each text that begins inside a box, whether it ends there; boxes never meet."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    patches, texts = figure.axes[0].patches, figure.axes[0].texts
    boxes = [p.get_window_extent(renderer) for p in patches if isinstance(p, FancyBboxPatch)]
    assert not any(a is not b and a.overlaps(b) for a in boxes for b in boxes)
    found = []
    for text in texts:
        words = text.get_window_extent(renderer)
        around = [box for box in boxes if box.contains(words.x0, (words.y0 + words.y1) / 2)]
        found += [box.xmin < words.xmin and words.xmax + MARGIN < box.xmax for box in around]
        found += [box.ymin < words.ymin and words.ymax < box.ymax for box in around]
    return found


def test_a_text_that_leaves_its_box_is_seen(figures: ModuleType) -> None:
    flow = figures.flow_of(GRPO())
    figure = figures.draw("GRPO", flow)
    figure.axes[0].texts[2].set_text("sample completions, as many as there are in a group")
    assert any(not fits for fits in texts_in_boxes(figure))


def test_a_flow_says_where_gradient_goes_and_what_is_read(figures: ModuleType) -> None:
    plain = figures.flow_of(GRPO(kl_coef=0.1))
    assert plain.gradient == {"surrogate": ("clean",), "reference_kl": ("clean",)}
    assert plain.reads == {"surrogate": ("advantages", "old"), "reference_kl": ("reference",)}
    scored = figures.flow_of(PAPO(removed_entropy_coef=0.1))
    assert scored.gradient["kl_prcp"] == ("clean",) and scored.gradient["removed_entropy"] == ()
    assert scored.reads["kl_prcp"] == ("score:removed",)
    recomputed = figures.flow_of(PAPO(removed_entropy_coef=0.1, removed_gradient=True))
    assert recomputed.gradient["kl_prcp"] == ("clean", "removed")
    assert recomputed.gradient["removed_entropy"] == ("removed",)
    chosen = figures.flow_of(CPPO()).chosen["contrastive_perception"]
    assert chosen.kind == "tokens" and chosen.terms == ("contrastive_perception",)
    assert chosen.sources == ("advantages", "score:clean", "score:removed")
    cancelling = figures.flow_of(CPPO(divergence="k1"))
    assert cancelling.gradient["contrastive_perception"] == ("preserved", "removed")


@pytest.mark.parametrize("page", sorted(METHODS.glob("*.md")), ids=lambda page: page.stem)
def test_every_official_function_that_a_page_names_exists(page: Path) -> None:
    for module, name in re.findall(r"`(foveal\.compat\.[a-z_]+)\.([a-z_0-9]+)`", page.read_text()):
        assert hasattr(importlib.import_module(module), name), f"{page.name}: {module}.{name}"
