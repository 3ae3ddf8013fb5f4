"""One-word changes of a config, and words of other libraries."""

import re
from pathlib import Path
from typing import Any

import pytest

from foveal import config as config_module
from foveal.config import load
from foveal.crosscheck import perturbed_views
from foveal.foreign import WORDS, answers
from foveal.objectives import REGISTRY
from foveal.spec import ConfigError
from foveal.tables import shipped

FILE_METHODS = [name for name in REGISTRY if name != "perception_reward"]
"""Methods that need no known scene."""


def told(source: Any, *overrides: str, **given: Any) -> tuple[Any, str]:
    said: list[str] = []
    return load(source, overrides=overrides, message=said.append, **given), "\n".join(said)


def refused(source: Any, *overrides: str, **given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(source, overrides=overrides, **given)
    return str(caught.value)


@pytest.mark.parametrize("name", list(REGISTRY))
@pytest.mark.parametrize(
    "source", [None, "own_data", "papo_d_qwen2_5_vl_7b", "papo_noisy_rollout_qwen2_5_vl_3b"]
)
def test_every_method_is_one_word_away(name: str, source: str | None) -> None:
    data = "world" if name == "perception_reward" else "mine.parquet"
    found, said = told(source and shipped(source), f"objective.type={name}", model="tiny", data=data)
    assert found.objective.type == name
    assert set(perturbed_views(found.objective, steps=found.steps)) <= set(found.perturbations)
    assert set(found.objective.uses_rewards) <= {reward.type for reward in found.rewards}
    if source is None and name != "papo":
        assert f"objective.type={name}: " in said


def test_what_is_added_is_told_and_is_the_methods_own() -> None:
    found, said = told(None, "objective.type=cppo", data="a.parquet")
    assert "cppo needs the view 'preserved': added [perturbations.preserved] random_choice" in said
    assert [part.type for part in found.perturbations["removed"].options] == ["occlusion", "crop"]
    found, said = told(None, "objective.type=dvrp", data="a.parquet")
    assert (found.perturbations["noised"].strength, found.perturbations["noised"].steepness) == (500, 10.0)
    found, said = told(None, "objective.type=perception_reward", data="world")
    assert "reads the reward 'facts': added to [[rewards]] with weight 0" in said
    assert found.rewards[-1].weight == 0


def test_a_perception_reward_on_data_without_scenes_is_refused_with_the_way_out() -> None:
    found = refused(None, "objective.type=perception_reward", data="a.parquet")
    assert "can grade nothing on this data" in found and "objective.reward" in found


def test_methods_are_compared_on_the_same_base() -> None:
    source = shipped("papo_d_qwen2_5_vl_7b")
    base = load(source).objective.base
    assert base.type == "dapo"
    assert told(source, "objective.type=dapo")[0].objective == base
    assert told(source, "objective.type=cppo")[0].objective.base == base
    assert "its base is dapo (" in told(source, "objective.type=vppo")[1]
    back, _ = told(shipped("grpo_qwen2_5_vl_3b"), "objective.type=papo")
    assert back.objective.base == load(shipped("grpo_qwen2_5_vl_3b")).objective
    inner, _ = told(shipped("papo_noisy_rollout_qwen2_5_vl_3b"), "objective.type=papo")
    assert (inner.objective.type, inner.objective.base.type) == ("papo", "grpo")
    assert inner.objective.kl_prcp_coef == 0.02


def test_a_bound_of_another_method_is_never_taken_over() -> None:
    """GSPO's clip range is a thousandth of GRPO's."""
    for source in ("own_data", "grpo_qwen2_5_vl_3b"):
        found, said = told(shipped(source), "objective.type=gspo")
        assert (found.objective.clip_low, found.objective.clip_high) == (3e-4, 4e-4)
        assert "settings of" in said and "are left out" in said
    nested, _ = told(shipped("own_data"), "objective.base.type=gspo")
    assert nested.objective.base.clip_high == 4e-4


def test_words_of_the_new_type_count_wherever_they_stand() -> None:
    found, _ = told(
        None, "objective.cpl_coef=0.5", "objective.type=cppo", "objective.base.clip_high=0.4", data="a"
    )
    assert (found.objective.cpl_coef, found.objective.base.clip_high) == (0.5, 0.4)
    assert found.objective.base.kl_coef == 0.01


def test_other_parts_switch_by_one_word_too() -> None:
    found, said = told(
        shipped("own_data"),
        "perturbations.removed.type=noise",
        "rewards.0.type=choice",
        "rewards.1.type=format",
    )
    assert found.perturbations["removed"].type == "noise"
    assert "perturbations.removed.type=noise: settings of patch_mask are left out (ratio, fill)" in said
    assert (found.rewards[0].type, found.rewards[0].weight) == ("choice", 0.9)
    assert "rewards.1" not in said


@pytest.mark.parametrize("word", ["validation=false", "validation.every=0"])
def test_an_inherited_validation_can_be_switched_off(word: str) -> None:
    assert load(shipped("papo_g_qwen2_5_vl_3b")).validation is not None
    assert load(shipped("papo_g_qwen2_5_vl_3b"), overrides=[word]).validation is None


def test_a_file_can_switch_off_the_validation_that_it_extends(tmp_path: Path) -> None:
    base = Path(config_module.__file__).parent / "configs" / "papo_g_qwen2_5_vl_3b.toml"
    (tmp_path / "mine.toml").write_text(f'extends = "{base}"\nvalidation = false\n')
    assert load(tmp_path / "mine.toml").validation is None


def test_own_data_is_not_validated_on_the_published_set(tmp_path: Path) -> None:
    source = shipped("papo_g_qwen2_5_vl_3b")
    found, said = told(source, data="mine.parquet")
    assert found.validation is None
    assert "validation on PAPOGalaxy/PAPO_MMK12_test is left out" in said
    assert "name held-out problems with validation.data.path=FILE" in refused(
        source, "validation.every=5", data="mine.parquet"
    )
    own, said = told(source, "validation.data.path=held_out.parquet", data="mine.parquet")
    assert own.validation.data.path == "held_out.parquet" and "left out" not in said
    assert load(source).validation is not None
    kept, _ = told(shipped("quickstart_papo"), data="world")
    assert (kept.validation is None) == (load(shipped("quickstart_papo")).validation is None)
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("")
    mine = {
        "data": {"path": "a.parquet"},
        "objective": {"type": "grpo"},
        "rewards": ["boxed"],
        "validation": {"data": str(held_out)},
    }
    assert told(mine, data="b.parquet")[0].validation.data.path == str(held_out)


THEIRS = [
    ("learning_rate=1e-6", "'learning_rate'; here it is optimizer.lr"),
    ("num_generations=8", "'num_generations'; here it is sampling.group_size"),
    ("per_device_train_batch_size=2", "'per_device_train_batch_size'; here it is sampling.prompts_per_step"),
    ("beta=0.04", "'beta'; here it is objective.base.kl_coef"),
    ("objective.beta=0.04", "'objective.beta'; here it is objective.base.kl_coef"),
    ("epsilon=0.2", "here it is objective.base.clip_low"),
    ("epsilon_high=0.28", "here it is objective.base.clip_high"),
    ("max_completion_length=512", "here it is sampling.max_new_tokens"),
    ("report_to=wandb", "'report_to'; metrics go to metrics.jsonl in the run folder"),
    ("num_train_epochs=2", "here it is steps: a run is counted in steps; one epoch is rows / sampling"),
    ("deepspeed=zero3.json", "'deepspeed'; a run is one process on one device"),
    ("peft_config=x", "'peft_config'; adapters are not there yet"),
    ("worker.rollout.n=5", "'worker.rollout.n'; here it is sampling.group_size"),
    ("actor_rollout_ref.rollout.n=5", "'actor_rollout_ref.rollout.n'; here it is sampling.group_size"),
    ("algorithm.kl_prcp_coef=0.02", "'algorithm.kl_prcp_coef'; here it is objective.kl_prcp_coef"),
    ("data.train_files=a.parquet", "'data.train_files'; here it is data.path"),
    ("sampling.num_generations=8", "'sampling.num_generations'; here it is sampling.group_size"),
    ("optimizer.learning_rate=8", "'optimizer.learning_rate'; here it is optimizer.lr"),
    ("lr=8", "'lr'; here it is optimizer.lr"),
    ("trainer.logger=['wandb']", "'trainer.logger'; metrics go to metrics.jsonl"),
    ("worker.actor.something=1", "'worker.actor.something'; EasyR1's table has no counterpart here"),
    ("custom_reward_function.path=a.py", "[[rewards]] with type = 'their_file.py:func'"),
]


@pytest.mark.parametrize(("word", "answer"), THEIRS, ids=[word for word, _ in THEIRS])
def test_a_key_of_another_library_is_answered_with_ours(word: str, answer: str) -> None:
    found = refused(None, word, data="a.parquet")
    assert f"override {word!r}: " in found or word.startswith(("objective.", "data."))
    assert "unknown key " in found and answer in found


def test_every_setting_of_a_foreign_table_is_answered() -> None:
    found = refused(None, "worker.rollout.n=5", "worker.actor.optim.lr=1e-6", "trainer.save_freq=5", data="a")
    assert found.count("unknown key") == 3
    assert "here it is optimizer.lr" in found and "here it is checkpoint.every" in found


def test_our_own_words_are_not_taken_for_theirs() -> None:
    """A field of another method is no foreign word, and what is written right is not corrected."""
    found = refused(
        {"data": "a", "objective": {"type": "grpo"}, "rewards": ["boxed"]}, "objective.kl_prcp_coef=1"
    )
    assert "unknown key 'kl_prcp_coef'" in found and "here it is" not in found
    assert answers("kl_prpc_coef", 1) == []


@pytest.mark.parametrize("method", ["papo", "cppo", "grpo", "gspo"])
def test_every_answer_is_accepted_by_the_method_that_is_trained(method: str) -> None:
    """For PAPO and CPPO the clip and the reference KL are fields of the base."""
    words = [word for word, ours in WORDS.items() if re.search(r"\bobjective\.", ours)]
    source = {"data": "a", "objective": {"type": method}, "rewards": ["boxed"]}
    said = {
        line.partition("'")[2].partition("'")[0]: line
        for line in refused(source | dict.fromkeys(words, 1)).splitlines()
    }
    assert len(words) > 30
    for word in words:
        if f"objective.{word}" in WORDS[word]:
            continue  # ours under its own name, at the top of the config
        answer = said[word].partition("; ")[2]
        types = re.findall(r'\(with (objective[.\w]*\.type) = "(\w+)"\)', answer)
        overrides = [f"{place}={kind}" for place, kind in types]
        found = load(source, overrides=overrides, complete=True)
        for path in re.findall(r"objective(?:\.\w+)+", answer):
            here: Any = found
            for part in path.split("."):
                assert part in type(here).model_fields, (word, answer)
                here = getattr(here, part)


def test_a_field_of_the_base_is_found_there() -> None:
    papo = {"data": "a", "objective": {"type": "papo"}, "rewards": ["boxed"]}
    grpo = papo | {"objective": {"type": "grpo"}}
    for field in ("kl_coef", "clip_high", "dual_clip"):
        assert f"objective.base.{field}" in refused(papo, f"objective.{field}=0.1")
        assert "objective.base" not in refused(grpo, f"objective.{field}=many")
    assert "it is a field of the base: objective.base.advantage" in refused(papo, "objective.advantage=x")
    assert "here it is objective.base.kl_coef" in refused(papo, "objective.base.beta=0.1")
    assert 'dapo has it: objective.type = "dapo"' in refused(grpo, "objective.filter_groups=true")
    for place in ("objective", "objective.base"):
        found = refused(papo, f"{place}.filter_groups=true")
        assert 'dapo has it: objective.base.type = "dapo"' in found
    found = refused(papo, "algorithm.filter_groups=true")
    assert "here it is objective.base.filter_groups: groups" in found
    assert '(with objective.base.type = "dapo")' in found
    dapo = papo | {"objective": {"type": "papo", "preset": "d"}}
    assert "it is a field of the base: objective.base.filter_low" in refused(dapo, "objective.filter_low=0.1")


def test_answers_name_fields_that_exist() -> None:
    """An answer that points to a field which is not there would be worse than none."""
    table = load(None, data="a.parquet", overrides=["objective.type=dapo"]).model_dump()
    table["objective"] |= load(None, data="a.parquet").objective.model_dump()
    table["objective"] |= load(
        None, data="a.parquet", overrides=["objective.type=cppo"]
    ).objective.model_dump()
    table["perturbations"]["removed"] = {"ratio": 0.6}
    table["validation"] = {"data": table["data"], "every": 1, "samples": 1, "problems": 1}
    wrong = []
    for word, ours in WORDS.items():
        first = ours.split(" ")[0].rstrip(":,;")
        if "." not in first or first.split(".")[0] not in table:
            continue
        here: Any = table
        for part in first.split("."):
            here = here.get(part, "missing") if isinstance(here, dict) else "missing"
        if here == "missing":
            wrong.append((word, first))
    assert not wrong


def test_an_option_of_another_library_is_answered_too(capsys: pytest.CaptureFixture[str]) -> None:
    from foveal.cli import main

    with pytest.raises(SystemExit) as end:
        main(["train", "--data", "world", "--learning_rate", "1e-6", "--num-generations=8"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "--learning_rate: here it is optimizer.lr (write it as section.key=value)" in said
    assert "--num-generations: here it is sampling.group_size" in said


@pytest.mark.parametrize(
    "table",
    [
        {"objective": {"type": "papo", "base": 3}},
        {"objective": {"type": "papo", "base": {"type": 3}}},
        {"objective": {"type": "papo", "preset": "none"}},
        {"objective": 3},
        {"objective": []},
        {"perturbations": []},
        {"perturbations": {"removed": 3}},
        {"rewards": 3},
        {"validation": {"data": {"path": "x" * 5000}}},
        {"validation": {"data": "a\0b"}},
        {"validation": {"data": 3}},
        {"validation": 3},
        {"steps": "many"},
    ],
    ids=str,
)
def test_a_switch_on_a_broken_table_is_one_message(table: dict[str, Any]) -> None:
    whole = {"data": {"path": "a"}, "objective": {"type": "papo"}, "rewards": ["boxed"]} | table
    for words in (["objective.type=cppo"], ["objective.base.type=gspo"], ["rewards.0.type=choice"]):
        try:
            load(whole, overrides=words, data="b")
        except ConfigError as error:
            assert str(error)
