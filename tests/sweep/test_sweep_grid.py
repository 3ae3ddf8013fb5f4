"""What a sweep varies: words and tables to arms, and which mistakes are told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from foveal.spec import ConfigError, FovealError
from foveal.sweep.grid import Arm, SweepTable, arms_of, axes_of, axis_of, read, toml
from foveal.sweep.plan import Plan, check_data, read_plan
from foveal.tables import shipped

CONFIGS = sorted(shipped("quickstart_papo").parent.glob("sweep_*.toml"))
NEEDS_A_MODEL = "sweep_mask_kind"


def arms(table: dict[str, Any] | None = None, *sets: str) -> list[Arm]:
    found = SweepTable.model_validate(table or {})
    return arms_of(found, axes_of(found, sets))


def plan(*sets: str, overrides: tuple[str, ...] = (), **options: Any) -> Plan:
    return read_plan(shipped("quickstart_papo"), sets=sets, overrides=overrides, **options)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("a.b=0,0.005, 0.01", ("0", "0.005", "0.01")),
        ("a=[1,2],[3]", ("[1,2]", "[3]")),
        ('a={type="x",n=[1,2]},{type="y"}', ('{type="x",n=[1,2]}', '{type="y"}')),
        ("a='x,y',z", ("'x,y'", "z")),
        ('a="it\'s, so",""', ('"it\'s, so"', '""')),
        ("a=k=v,w", ("k=v", "w")),
        ("a=true,false", ("true", "false")),
    ],
)
def test_values_are_split_at_top_level_commas_only(words: str, values: tuple[str, ...]) -> None:
    assert axis_of(words).values == values


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("a.b", "not of the form section.key=value"),
        ("=1,2", "not of the form"),
        ("a..b=1", "not of the form"),
        ("a=", "has an empty value"),
        ("a=1,,2", "has an empty value"),
        ("a=1,2,", "has an empty value"),
        ("a=[1,2", "a bracket is not closed"),
        ("a='x,2", "a quote ' is not closed"),
        ("a=1,2,1", "has the value 1 twice"),
        ("a=1.0,1.00", "has the value 1.00 twice"),
    ],
)
def test_a_mistake_in_the_words_names_them(words: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        axis_of(words)
    assert words in str(caught.value) and told in str(caught.value)


def test_one_and_true_and_one_point_nought_are_three_values() -> None:
    assert axis_of("a=1,true,1.0").values == ("1", "true", "1.0")


def test_the_grid_is_the_product_with_the_last_key_fastest() -> None:
    found = arms({}, "m.a=1,2", "m.b=x,y")
    assert [arm.name for arm in found] == ["a-1-b-x", "a-1-b-y", "a-2-b-x", "a-2-b-y"]
    assert found[1].overrides == ("m.a=1", "m.b=y")
    assert found[1].point == {"m.a": 1, "m.b": "y"}
    assert found[1].label == "a = 1, b = y"


def test_named_arms_are_combined_with_the_grid() -> None:
    table = {"arms": {"base": {"x.y": 0}, "both": {"x.y": 1, "z": "w"}}, "set": {"m.a": [1, 2]}}
    found = arms(table)
    assert [arm.name for arm in found] == ["base-a-1", "base-a-2", "both-a-1", "both-a-2"]
    assert found[2].overrides == ("x.y=1", 'z="w"', "m.a=1")
    assert found[2].point == {"arm": "both", "m.a": 1}


def test_set_on_the_command_line_replaces_the_key_of_the_table_and_adds_others() -> None:
    table = {"set": {"m.a": [1, 2, 3], "m.b": [5]}}
    found = arms(table, "m.a=7", "m.c=8,9")
    assert [arm.overrides for arm in found] == [("m.a=7", "m.b=5", "m.c=8"), ("m.a=7", "m.b=5", "m.c=9")]


def test_keys_may_be_quoted_or_tables_and_a_quoted_key_takes_a_whole_table() -> None:
    nested = {"arms": {"n": {"perturbations": {"removed": {"type": "noise", "std": 0.5}}}}}
    assert arms(nested)[0].overrides == (
        'perturbations.removed.type="noise"',
        "perturbations.removed.std=0.5",
    )
    whole = {"arms": {"n": {"perturbations.removed": {"type": "noise", "std": 0.5}}}}
    assert arms(whole)[0].overrides == ('perturbations.removed={"type" = "noise", "std" = 0.5}',)
    assert arms({"set": {"m": {"a": [1, 2]}}})[0].overrides == ("m.a=1",)


def test_names_of_keys_are_as_long_as_it_takes_to_tell_them_apart() -> None:
    names = [arm.name for arm in arms({}, "o.coef=1", "o.base.coef=2")]
    assert names == ["o.coef-1-base.coef-2"]


def test_values_that_are_no_file_names_get_a_digest() -> None:
    first, second = (arm.name for arm in arms({}, 'm.p=a/b,"a b"'))
    assert first.startswith("p-a_b-") and second.startswith("p-a_b-") and first != second


@pytest.mark.parametrize("value", [True, 3, 0.25, 'say "x"', [1, [2.5, "y"]], {"type": "z", "n": [1]}])
def test_a_value_survives_its_toml(value: Any) -> None:
    assert read(toml(value)) == value


@pytest.mark.parametrize(
    ("table", "sets", "told"),
    [
        ({}, (), "nothing is varied"),
        ({"set": {"m.a": 3}}, (), r"\[sweep.set\] m.a = 3 is not a list"),
        ({"set": {"m.a": []}}, (), r"\[sweep.set\] m.a has no value"),
        ({}, ("m.a=1", "m.a=2"), "--set m.a is given twice"),
        ({}, ("seed=1,2",), "give their number by --seeds"),
        ({"arms": {"a/b": {"x": 1}}}, (), "'a/b' names a folder"),
        ({"arms": {"first": {"seed": 1}, "second": {"seed": 2}}}, (), "give their number by --seeds"),
        ({"arms": {"cold_start": {"x": 1}}}, (), "'cold_start' is the name of the model before training"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(table: dict[str, Any], sets: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        arms(table, *sets)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (("objective.kl_prpc_coef=0,1",), "arm kl_prpc_coef-0: .*did you mean 'kl_prcp_coef'"),
        (("objective.kl_prcp_coef=0,-1",), "arm kl_prcp_coef--1: .*greater than or equal to 0"),
        (("objective.kl_prcp_coef=0,many",), "arm kl_prcp_coef-many: .*valid number"),
        (("objective.type=papo,ppao",), "arm type-ppao: unknown objective type 'ppao'"),
        (("perturbations.removed.type=patch_mask,nosie",), "arm type-nosie: unknown perturbation type"),
        (("model.path=tiny,nowhere",), "arm path-nowhere: model.path = nowhere: no such folder"),
        (("perturbations={}",), r'arm perturbations-.*: papo needs a "removed" view, but \[perturbations\]'),
    ],
)
def test_a_wrong_arm_is_named_before_anything_runs(sets: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plan(*sets)


def test_all_refused_arms_are_counted() -> None:
    with pytest.raises(ConfigError, match="2 more arms are refused too"):
        plan("objective.nothing=1,2,3")


def test_overrides_hold_for_all_arms_and_reach_into_named_ones(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        f'extends = "{shipped("quickstart_papo")}"\n[sweep]\nseeds = 3\nproblems = 50\n'
        "[sweep.arms]\nplain = { objective.kl_prcp_coef = 0 }\nstrong = { objective.kl_prcp_coef = 0.1 }\n"
    )
    found = read_plan(file, overrides=["data.haze=0.3", "sweep.arms.strong.objective.kl_prcp_coef=0.4"])
    assert [config.objective.kl_prcp_coef for config in found.configs.values()] == [0, 0.4]
    assert {config.data.haze for config in found.configs.values()} == {0.3}
    assert (found.seeds, found.problems) == (3, 50)
    assert (read_plan(file, seeds=1, problems=9).seeds, read_plan(file, problems=9).problems) == (1, 9)
    assert [job.name for job in read_plan(file, seeds=2).jobs(tmp_path)] == [
        "cold_start",
        "plain-seed0",
        "strong-seed0",
        "plain-seed1",
        "strong-seed1",
    ]


def test_an_override_of_the_seed_is_refused_as_no_run_would_have_it() -> None:
    with pytest.raises(ConfigError, match="give their number by --seeds"):
        plan("objective.kl_prcp_coef=0,1", overrides=("seed=7",))


def test_arms_with_other_problems_or_models_have_no_common_start(tmp_path: Path) -> None:
    assert plan("objective.kl_prcp_coef=0,1").comparable
    assert not plan("data.haze=0.3,0.5").comparable
    assert "cold_start" not in [job.name for job in plan("data.haze=0.3,0.5").jobs(tmp_path)]


def test_a_config_that_is_a_sweep_is_not_trained_as_one_run() -> None:
    from foveal.config import load

    with pytest.raises(ConfigError, match=r"has a \[sweep\] table, .* start it by foveal sweep"):
        load(shipped("sweep_gamma"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_ready_sweeps_are_whole(file: Path) -> None:
    if file.stem == NEEDS_A_MODEL:
        with pytest.raises(ConfigError, match=r"arm salient: [\s\S]*sweep.arms.salient.KEY=VALUE"):
            read_plan(file)
        return
    found = read_plan(file)
    assert found.seeds >= 4 and found.comparable
    assert len({str(config) for config in found.configs.values()}) == len(found.arms) > 1


def test_the_sweep_of_mask_kinds_runs_with_a_saliency_model_and_is_refused_without(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = Dinov2Config(
        hidden_size=16, num_hidden_layers=9, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14
    )
    Dinov2Model(small).save_pretrained(tmp_path / "dino")
    word = "sweep.arms.salient.perturbations.removed.model="
    found = read_plan(shipped(NEEDS_A_MODEL), overrides=[f"{word}{tmp_path / 'dino'}"])
    check_data(found)
    assert [arm.name for arm in found.arms] == ["random", "salient"] and found.comparable
    missing = read_plan(shipped(NEEDS_A_MODEL), overrides=[f"{word}{tmp_path / 'nowhere'}"])
    with pytest.raises(FovealError, match=r"arm salient: .*nowhere"):
        check_data(missing)


def test_each_ablation_of_the_paper_has_a_ready_sweep() -> None:
    names = {file.stem.removeprefix("sweep_") for file in CONFIGS}
    assert names >= {"gamma", "mask_ratio", "mask_kind", "noise", "reference_kl", "entropy"}


def test_both_entropies_of_the_ready_sweep_can_train() -> None:
    found = read_plan(shipped("sweep_entropy"))
    assert all("removed" in config.objective.update_views for config in found.configs.values())
