"""Configurations: what is read, what is refused and with which words."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from foveal import config as config_module
from foveal.config import DEFAULTS, RunConfig, dump, load
from foveal.objectives.papo import PAPO
from foveal.spec import ConfigError
from foveal.tables import read_table, shipped

CONFIGS = Path(config_module.__file__).parent / "configs"
SHIPPED = sorted(file for file in CONFIGS.glob("*.toml") if "sweep" not in read_table(file))
"""Of single runs; sweeps are read in tests/sweep."""


def table(**changes: Any) -> dict[str, Any]:
    return {
        "data": {"type": "world", "families": ["counting"]},
        "objective": {"type": "papo", "base": {"type": "dapo"}},
        "perturbations": {"removed": {"type": "patch_mask"}},
        "rewards": [{"type": "boxed", "weight": 0.9}, {"type": "format"}],
    } | changes


def refused(source: Any, *overrides: str, **given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(source, overrides=overrides, **given)
    return str(caught.value)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_config_is_the_same_after_writing_and_reading_it(file: Path) -> None:
    overrides = [] if "data" in read_table(file) else ["data.type=world"]
    if "objective" not in read_table(file):
        overrides.append("objective.type=grpo")
    found = load(file, overrides=overrides)
    text = dump(found)
    assert load(tomllib.loads(text)) == found
    assert dump(load(tomllib.loads(text))) == text


def test_every_field_survives_writing_and_reading() -> None:
    found = load(
        table(validation={"data": {"type": "world"}, "other_picture": True}),
        overrides=["optimizer.betas=[0.8, 0.9]", "sampling.top_p=0.99", "model.device=cpu", "seed=3"],
    )
    again = load(tomllib.loads(dump(found)))
    assert again == found
    assert isinstance(again.objective, PAPO) and again.objective.base.type == "dapo"


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("sed=1", "unknown key 'sed'; did you mean 'seed'?"),
        ("sampling.group_sise=4", "unknown key 'sampling.group_sise'; did you mean 'group_size'?"),
        ("model.pth='x'", "unknown key 'model.pth'; did you mean 'path'?"),
        ("validation.evry=2", "unknown key 'validation.evry'; did you mean 'every'?"),
        (
            "objective.kl_prpc_coef=1",
            "objective 'papo': unknown key 'kl_prpc_coef'; did you mean 'kl_prcp_coef'?",
        ),
        (
            "objective.base.clip_hihg=1",
            "objective 'dapo': unknown key 'clip_hihg'; did you mean 'clip_high'?",
        ),
        (
            "perturbations.removed.ratoi=1",
            "perturbation 'patch_mask': unknown key 'ratoi'; did you mean 'ratio'?",
        ),
        ("rewards.0.wieght=1", "reward 'boxed': unknown key 'wieght'; did you mean 'weight'?"),
        ("data.familes=['counting']", "data 'world': unknown key 'familes'; did you mean 'families'?"),
        ("validation.data.splt='x'", "data 'world': unknown key 'splt'; did you mean 'split'?"),
        ("optimizer.zzzz=1", "unknown key 'optimizer.zzzz'; known keys: lr, warmup_steps"),
    ],
)
def test_unknown_key_comes_with_the_nearest_one_at_every_depth(place: str, hint: str) -> None:
    assert hint in refused(table(validation={"data": {"type": "world"}}), place)


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("objective.type=paop", "unknown objective type 'paop'; did you mean 'papo'?"),
        ("objective.base.type=grop", "unknown objective type 'grop'; did you mean 'grpo'?"),
        (
            "perturbations.removed.type=patchmask",
            "unknown perturbation type 'patchmask'; did you mean 'patch_mask'?",
        ),
        ("rewards.1.type=formatt", "unknown reward type 'formatt'; did you mean 'format'?"),
        ("data.type=parqet", "unknown data type 'parqet'; did you mean 'parquet'?"),
        (
            "objective.type=nothing_here:Mine",
            "'nothing_here:Mine' cannot be imported: No module named 'nothing_here'",
        ),
        ("objective.type=json:Mine", "module 'json' has no 'Mine'"),
        ("objective.type=json:JSONDecoder", "is not a class derived from foveal.types.Objective"),
        ("objective.type=:Mine", "is not an import path; write it as 'my_file:MyClass'"),
    ],
)
def test_unknown_type_comes_with_the_nearest_one(place: str, hint: str) -> None:
    assert hint in refused(table(), place)


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("sampling.group_size=1", "a group of one has nothing to be compared with"),
        ("sampling.temperature=0", "sampling.temperature = 0: Input should be greater than 0"),
        ("steps=many", "steps = 'many': Input should be a valid integer"),
        ("optimizer.mini_batches=20", "a step has only 12 groups"),
        (
            'objective={type="cppo", base="grpo", preserved_view="kept"}',
            "cppo needs a \"kept\" view, but [perturbations] has 'removed'",
        ),
        ("optimizer.lr=inf", "override 'optimizer.lr=inf': optimizer.lr = inf: Input should be a finite"),
        ("rewards.0.weight=nan", "reward 'boxed': weight = nan: Input should be a finite number"),
        ("objective.kl_prcp_coef=inf", "objective 'papo': kl_prcp_coef = inf: Input should be a finite"),
        ("optimizer.betas=[0.9, 1.0]", "override 'optimizer.betas=[0.9, 1.0]': optimizer.betas.1 = 1.0"),
        ("model.dtype=float16", "model.dtype = 'float16'"),
        ("rewards=[]", "no rewards; expected at least one [[rewards]] table"),
    ],
)
def test_value_that_cannot_be_run_is_refused(place: str, hint: str) -> None:
    assert hint in refused(table(), place)


def test_missing_view_names_the_table_to_add() -> None:
    found = refused(table(perturbations={}))
    assert 'papo needs a "removed" view, but [perturbations] has nothing' in found
    assert "add [perturbations.removed]" in found


def test_override_is_blamed_for_what_it_set_and_nothing_else() -> None:
    found = refused(table(steps="many"), "sampling.group_sise=4", "seed=3").splitlines()
    assert found[0].startswith("config: steps = 'many'")
    assert found[1].startswith("override 'sampling.group_sise=4': unknown key 'sampling.group_sise'")
    assert len(found) == 2


def test_missing_tables_are_named() -> None:
    assert "'objective' is missing" in refused({"data": {"type": "world"}, "rewards": ["boxed"]})
    assert "no data; add a [data] table or pass --data" in refused({"objective": {"type": "grpo"}})
    assert "no data" in refused(None)


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("steps", "'steps' is not of the form section.key=value"),
        ("=3", "is not of the form section.key=value"),
        ("sampling..x=3", "is not of the form section.key=value"),
        ("rewards.5.weight=1", "'5' is not a place in a list of 2"),
        ("rewards.first.weight=1", "'first' is not a place in a list of 2"),
        ("rewards.-1.weight=1", "'-1' is not a place in a list of 2"),
        ("seed.x=1", "'seed' is a value, not a table"),
        ("optimizer.betas.0.x=1", "'0' is a value, not a table"),
    ],
)
def test_override_that_is_none_is_refused(place: str, hint: str) -> None:
    assert hint in refused(table(seed=1, optimizer={"betas": [0.9, 0.99]}), place)


def test_overrides_reach_into_tables_and_lists() -> None:
    found = load(
        table(),
        overrides=[
            "rewards.0.weight=0.5",
            "objective.base.clip_high=0.3",
            "optimizer.betas=[0.5, 0.6]",
            "perturbations.removed.fill=mean",
            "data.families=['relations']",
            "model.path=some/model",
        ],
    )
    assert found.rewards[0].weight == 0.5
    assert found.objective.base.clip_high == 0.3  # type: ignore[attr-defined]
    assert found.optimizer.betas == (0.5, 0.6)
    assert found.perturbations["removed"].fill == "mean"  # type: ignore[attr-defined]
    assert found.model.path == "some/model"


def test_overrides_leave_the_callers_table_and_the_defaults_alone() -> None:
    mine = table()
    load(mine, overrides=["rewards.0.weight=0.5", "objective.kl_prcp_coef=0.5", "seed=1"])
    assert mine == table()
    found = load(None, data="world", overrides=["rewards.0.weight=0.25", "objective.kl_prcp_coef=0.5"])
    assert (found.rewards[0].weight, found.objective.type) == (0.25, "papo")
    assert found.objective.kl_prcp_coef == 0.5  # type: ignore[attr-defined]
    assert DEFAULTS["rewards"][0]["weight"] == 0.9


def test_data_named_on_the_command_line_replaces_only_what_it_must() -> None:
    mine = table(data={"type": "parquet", "path": "a.parquet", "answer_column": "gold"})
    found = load(mine, data="b.jsonl").data
    assert (found.type, found.path, found.answer_column) == ("auto", "b.jsonl", "gold")  # type: ignore[attr-defined]
    assert load(table(), data="b.jsonl").data.path == "b.jsonl"  # type: ignore[attr-defined]
    assert load(mine, data="world").data.type == "world"
    assert load(table(data={"path": "c.parquet"})).data.type == "auto"
    assert load(table(data="c.parquet")).data.path == "c.parquet"  # type: ignore[attr-defined]
    assert load(table(), model="other").model.path == "other"


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_extends_merges_tables_and_replaces_what_has_another_type(tmp_path: Path) -> None:
    write(
        tmp_path / "base.toml",
        'seed = 1\nsteps = 7\n[objective]\ntype = "papo"\nkl_prcp_coef = 0.5\n'
        "[sampling]\ngroup_size = 3\nprompts_per_step = 4\n"
        '[[rewards]]\ntype = "boxed"\n[data]\ntype = "world"\n',
    )
    write(
        tmp_path / "below" / "top.toml",
        'extends = "../base.toml"\nseed = 2\n[objective]\ntype = "grpo"\n[sampling]\ngroup_size = 5\n',
    )
    found = load(tmp_path / "below" / "top.toml")
    assert (found.seed, found.steps, found.objective.type) == (2, 7, "grpo")
    assert (found.sampling.group_size, found.sampling.prompts_per_step) == (5, 4)


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "self.toml", 'extends = "self.toml"\n')
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path / f"{name}.toml", f'extends = "{other}.toml"\n')
    assert "goes round in a circle (self.toml -> self.toml)" in refused(tmp_path / "self.toml")
    assert "goes round in a circle (a.toml -> b.toml -> c.toml -> a.toml)" in refused(tmp_path / "a.toml")
    assert "extends = 3 is not the path of a TOML file" in refused(
        write(tmp_path / "n.toml", "extends = 3\n")
    )


def test_file_that_is_not_there_comes_with_the_one_that_is_meant(tmp_path: Path) -> None:
    write(tmp_path / "my_run.toml", "")
    assert f"did you mean {tmp_path / 'my_run.toml'}?" in refused(tmp_path / "my_rnu.toml")
    assert "did you mean quickstart_papo?" in refused(tmp_path / "nowhere" / "quickstart_pappo.toml")
    assert f"found {tmp_path / 'my_run.toml'}" in refused(tmp_path / "zzzzzzzzzz.toml")
    assert "no such config file" in refused(write(tmp_path / "x.toml", 'extends = "gone.toml"\n'))


def test_file_that_is_not_toml_is_refused_with_the_place(tmp_path: Path) -> None:
    assert "is not valid TOML" in refused(write(tmp_path / "x.toml", "steps = = 3\n"))
    assert "line 1" in refused(tmp_path / "x.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    assert "is not valid TOML" in refused(tmp_path / "b.toml")


def test_shipped_config_is_found_by_name_and_a_file_of_that_name_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped("quickstart_papo").parent.name == "configs"
    write(tmp_path / "quickstart_papo", "")
    assert shipped("quickstart_papo") == Path("quickstart_papo")
    assert shipped("mine.toml") == Path("mine.toml")


def test_plug_in_beside_the_config_is_found_and_its_fields_are_overridden(tmp_path: Path) -> None:
    write(
        tmp_path / "beside_config.py",
        "from foveal.types import Reward\n\n\nclass Shout(Reward):\n    loudness: float = 1.0\n\n"
        "    def __call__(self, problem, text):\n        return self.loudness\n",
    )
    write(
        tmp_path / "run.toml",
        '[data]\ntype = "world"\n[objective]\ntype = "grpo"\n[[rewards]]\ntype = "beside_config:Shout"\n',
    )
    found = load(tmp_path / "run.toml", overrides=["rewards.0.loudness=2.5"])
    assert found.rewards[0].loudness == 2.5  # type: ignore[attr-defined]
    assert load(tomllib.loads(dump(found))) == found
    assert "reward 'beside_config:Shout': unknown key 'loudnes'; did you mean 'loudness'?" in refused(
        tmp_path / "run.toml", "rewards.0.loudnes=1"
    )


def test_configs_are_frozen() -> None:
    found = load(table())
    with pytest.raises(ValueError, match="frozen"):
        found.seed = 2
    assert isinstance(found, RunConfig)


@pytest.mark.parametrize(
    ("objective", "horizon"),
    [
        ({"type": "dr_grpo"}, 77),
        ({"type": "rloo"}, 77),
        ({"type": "dr_grpo", "horizon": 5}, 5),
        ({"type": "papo", "base": {"type": "dr_grpo"}}, 77),
        ({"type": "grpo"}, None),
    ],
)
def test_sums_over_a_completion_are_divided_by_the_limit_of_completions_unless_a_horizon_is_set(
    objective: dict[str, Any], horizon: int | None
) -> None:
    found = load(table(objective=objective), overrides=["sampling.max_new_tokens=77"])
    assert found.objective.horizon == horizon
    assert getattr(found.objective, "base", found.objective).horizon == horizon
    assert load(tomllib.loads(dump(found))) == found
