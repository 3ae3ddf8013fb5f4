"""Mistakes in plug-ins and values: one message that says what to change, no traceback, no silent nonsense."""

from pathlib import Path

import pytest
import torch

from foveal.cli import main
from foveal.config import load
from foveal.jobs.folder import claim
from foveal.objectives.extension import build_objective
from foveal.objectives.papo import PAPO
from foveal.objectives.sequence import cispo_loss
from foveal.rollout.draw import inverse_cdf
from foveal.spec import ConfigError, FovealError
from foveal.train.contract import require_advantages, require_terms
from foveal.types import CLEAN, Count, Term
from objective_batches import make_case

HALF_WRITTEN = """
from foveal.data.problems import DataSource
from foveal.objectives.extension import Extension
from foveal.types import Objective, Perturbation, Reward

class NoTerms(Objective):
    pass

class NoCall(Perturbation):
    pass

class NoValue(Reward):
    pass

class NoLoad(DataSource):
    pass

class Fails(Extension):
    def sample_views(self, step, *, steps):
        raise KeyError("mine")

class Half(Extension):
    def sample_views(self, step, *, steps):
        return {"clean": 0.5}

class Broken(Extension):
    def __init__(self, **fields):
        raise RuntimeError("never made")
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with half-written classes."""
    (tmp_path / "half.py").write_text(HALF_WRITTEN)
    (tmp_path / "bare.py").write_text(
        "from foveal.types import Reward\nclass Bare(Reward):\n    bonus = 0.3\n"
    )
    (tmp_path / "zero.py").write_text("1 / 0\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("objective=half:NoTerms", "is not finished: it has no advantages, masks, terms of its own"),
        ("perturbations.removed=half:NoCall", "'half:NoCall' is not finished: it has no __call__"),
        ("rewards.0.type=half:NoValue", "'half:NoValue' is not finished: it has no __call__"),
        ("data=half:NoLoad", "data type 'half:NoLoad' is not finished: it has no load of its own"),
        ("data=half:NoCall", "is not a class derived from foveal.data.problems.DataSource"),
        ("rewards.0.type=half:NoCall", "is not a class derived from foveal.types.Reward"),
        ("objective=half:Broken", "cannot be made: RuntimeError: never made"),
        ("objective=half:Half", "sample_views gives {'clean': 0.5} at step 0; expected shares"),
        ("objective=half:Fails", "a class of your own failed: KeyError: 'mine'"),
        ("objective=zero:X", "cannot be imported: ZeroDivisionError: division by zero"),
        ("objective=leaves:X", "cannot be imported: SystemExit: 7"),
        ("objective=./half:NoTerms", "cannot be imported"),
        ("rewards.0.type=bare:Bare", "A non-annotated attribute was detected: `bonus = 0.3`"),
    ],
)
def test_a_half_written_class_ends_with_a_message(
    plugins: Path, capsys: pytest.CaptureFixture[str], override: str, told: str
) -> None:
    assert main(["config", "quickstart_papo", override]) == 2
    assert told in capsys.readouterr().err


def test_the_line_of_a_plugin_that_failed_is_told(plugins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "quickstart_papo", "objective=half:Fails"])
    line = HALF_WRITTEN.splitlines().index('        raise KeyError("mine")') + 1
    assert f"half.py line {line}, in sample_views" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("objective.removed_view=clean", "removed_view = 'clean': \"clean\" is the pictures as they are"),
        ("perturbations.clean=blur", "[perturbations.clean] has no effect"),
        ("perturbations.removed.fill=pink", "fill = 'pink': Input should be 'black', 'grey'"),
        (
            "perturbations.removed=salient_mask",
            "'model' is missing; add it to the table of this perturbation",
        ),
        ("threads=100000", "threads = 100000"),
        ('perturbations.removed={type="occlusion",rectangles=100000000}', "rectangles = 100000000"),
        ("model=tiny", "model = 'tiny': expected a table"),
        ("objective.aggregation=foo", "objective 'papo': aggregation 'foo' differs"),
    ],
)
def test_a_value_that_makes_no_sense_is_told_in_words(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, data="world", overrides=[override])
    assert told in str(caught.value)
    assert "constrained" not in str(caught.value) and "Value error" not in str(caught.value)


def test_an_override_below_a_bare_name_shows_the_table() -> None:
    overrides = ["perturbations.removed=noise", "perturbations.removed.std=0.3"]
    with pytest.raises(ConfigError, match=r"perturbations.removed=\{type=\"noise\", std=...\}"):
        load(None, data="world", overrides=overrides)


def test_a_base_without_a_type_is_grpo() -> None:
    assert PAPO(base={"kl_coef": 0.04}) == PAPO(base={"type": "grpo", "kl_coef": 0.04})


def test_a_huge_clip_of_cispo_leaves_ratios_as_they_are() -> None:
    one = torch.tensor([1.0])
    assert cispo_loss(-one, one, one, clip_low=1.0, clip_high=1e300).item() == pytest.approx(
        2.718281828, rel=1e-6
    )


def test_no_token_is_drawn_where_the_weights_are_not_finite() -> None:
    for size in (5, 5000):
        weights = torch.full((3, size), torch.nan)
        weights[1], weights[2] = 1.0, 0.0
        token, sound = inverse_cdf(weights, torch.tensor([0.5] * 3).double(), top_p=1.0)
        assert sound.tolist() == [False, True, False]  # the sampler refuses a batch with an unsound row
        assert int(token.max()) < size


def test_advantages_of_another_shape_are_refused() -> None:
    inputs = make_case(views=("clean",)).batch.inputs
    for wrong in (None, inputs.rewards):
        with pytest.raises(FovealError, match="expected one a token"):
            require_advantages(wrong, inputs, PAPO())


def test_terms_that_do_not_fit_the_masks_are_refused() -> None:
    case = make_case(views=("clean",))
    mask = case.batch.inputs.completion_mask
    good = Term(name="x", coef=1.0, per_token=case.now[CLEAN].logprobs, mask=mask)
    narrow = Term(name="x", coef=1.0, per_token=good.per_token[:, :1], mask=mask)
    counts = {"x": Count(tokens=1.0, sequences=1.0)}
    require_terms([good, good], counts, case.batch, PAPO())  # methods that hold one another
    wrong = [
        (None, "expected a list"),
        ([Term(name="y", coef=1.0, per_token=good.per_token, mask=mask)], "its masks have x"),
        ([narrow], "expected one value a token"),
    ]
    for terms, told in wrong:
        with pytest.raises(FovealError, match=told):
            require_terms(terms, counts, case.batch, PAPO())


def test_views_that_are_held_against_each_other_are_two() -> None:
    for table in (
        {"type": "cppo", "removed_view": "x", "preserved_view": "x"},
        {"type": "dvrp", "removed_view": "x", "noised_view": "x"},
    ):
        with pytest.raises(ConfigError, match="are both 'x'; expected two views"):
            build_objective(table)


def test_many_runs_are_not_put_into_the_folder_of_one(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("steps = 1")
    with pytest.raises(FovealError, match="already holds a run"):
        claim(tmp_path, "sweep.json", {}, conflict=lambda _: None)
    assert not (tmp_path / "sweep.json").exists()
