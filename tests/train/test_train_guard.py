"""The collapse guard: silent on healthy noise, quick on a planted collapse, the same after kills."""

import copy
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal.collapse import RECENT, GuardConfig, Memory, Verdict, observe
from foveal.config import load
from foveal.jobs.job import Job
from foveal.jobs.screen import _state
from foveal.jobs.worker import step_seconds
from foveal.keys import generator
from foveal.policy.checkpoint import latest_checkpoint
from foveal.report.run_page import write_run_report
from foveal.signs import SIGNS, in_words
from foveal.spec import ConfigError
from foveal.train import guard, loop
from foveal.train.guard import Collapsed, healthy_checkpoint
from foveal.train.record import read_lines
from foveal.train.state import State
from foveal.worlds.text import corpus, grammar
from run_cases import differences, lines, world_config

Row = dict[str, float]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def trace(seed: int, steps: int) -> list[Row]:
    """A run that learns: reward and kl_prcp rise and level off, entropy falls, and luck lasts some steps."""
    rng, luck, rows = generator("guard trace", seed), 0.0, []
    for step in range(steps):
        skill = 0.45 + 0.4 * (1 - math.exp(-step / 60))
        entropy = 0.1 + 0.4 * math.exp(-step / 150)
        luck = 0.9 * luck + 0.05 * rng.normal()
        kl = (0.1 + 0.3 * (1 - math.exp(-step / 80)) + 3e-4 * step) * math.exp(0.25 * rng.normal() + luck)
        right = float(rng.binomial(8, np.clip(rng.beta(3 * skill, 3 - 3 * skill, 12), 0, 1)).mean() / 8)
        form = 1 - rng.binomial(96, 0.01) / 96
        rows.append(
            {
                "reward/mean": 0.9 * right + 0.1 * form,
                "reward/std": 0.01 + 0.9 * math.sqrt(right * (1 - right)),
                "reward/format": form,
                "kl_prcp/mean": kl,
                "kl_prcp/variance": 8 * kl * math.exp(0.5 * rng.normal()),
                "kl_prcp/tail_fraction": rng.binomial(4000, min(0.9, 0.15 * kl)) / 4000,
                "perception/removed_kl": kl * math.exp(0.1 * rng.normal()),
                "perception/entropy_shift": 0.2 * kl * math.exp(0.3 * rng.normal()),
                "policy/entropy": entropy * math.exp(0.12 * rng.normal() + 0.3 * luck),
                "policy/clip_high_fraction": rng.poisson(2) / 4000,
                "completion/length_mean": 40 + 3 * rng.normal() + 0.01 * step,
                "completion/truncated_fraction": rng.binomial(96, 0.01) / 96,
                "completion/relatedness": 1 - rng.binomial(4000, 0.002) / 4000,
                "completion/reference_logprob": -entropy * math.exp(0.1 * rng.normal()),
            }
        )
    return rows


def collapse(rows: list[Row], *, start: int, rate: float = 0.15) -> list[Row]:
    """From `start` on kl_prcp and both entropies grow by `rate` a step; reward and text fall apart later."""
    found = copy.deepcopy(rows)
    for step, row in enumerate(found[start:]):
        grown, late = math.exp(rate * step), min(1.0, max(0, step - 12) / 20)
        for name in ("kl_prcp/mean", "kl_prcp/variance", "policy/entropy", "perception/entropy_shift"):
            row[name] = min(row[name] * grown, 10.0)
        for name in ("reward/mean", "reward/format", "completion/relatedness"):
            row[name] *= 1 - late
    return found


def watch(rows: list[Row], config: GuardConfig | None = None) -> list[Verdict]:
    memory, settings = Memory(), config or GuardConfig()
    return [observe(memory, step, row, settings) for step, row in enumerate(rows, start=1)]


def alarms(verdicts: list[Verdict]) -> list[int]:
    return [step for step, verdict in enumerate(verdicts, start=1) if verdict.alarm]


def test_a_share_near_one_is_read_by_what_it_lacks_to_one() -> None:
    # Healthy text: at most a few unknown word pairs in 4,000. Then 20 in 4,000, five steps in a row.
    healthy = [{"completion/relatedness": 1.0 - (step % 7 == 0) * 0.0005} for step in range(40)]
    drifted = [{"completion/relatedness": 1.0 - 0.005} for _ in range(5)]
    memory = Memory()
    told = [observe(memory, step, row, GuardConfig()).alarm for step, row in enumerate(healthy + drifted)]
    assert not any(told[:40]) and told[40:] == [False, False, True, False, False]
    outlier = [*healthy, drifted[0], *healthy[:5]]
    memory = Memory()
    assert not any(observe(memory, step, row, GuardConfig()).alarm for step, row in enumerate(outlier))


def test_healthy_runs_raise_less_than_one_alarm_in_2000_steps() -> None:
    """With luck that lasts ten steps and moves kl_prcp and both entropies together, harder than real runs."""
    assert sum(len(alarms(watch(trace(seed, 1000)))) for seed in range(4)) < 2


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_collapse_is_told_once_and_before_the_reward_falls(seed: int) -> None:
    verdicts = watch(collapse(trace(seed, 140), start=80))
    found = alarms(verdicts)
    assert len(found) == 1 and 80 < found[0] <= 80 + 12
    verdict = verdicts[found[0] - 1]
    assert {"kl_prcp"} < set(verdict.signs) and "reward" not in verdict.signs
    assert 60 <= verdict.onset <= 82


def test_a_planted_collapse_without_kl_prcp_is_told_by_reward_and_entropy() -> None:
    """GRPO has no kl_prcp."""
    kept = ("reward/mean", "reward/std", "reward/format", "policy/entropy", "completion/length_mean")
    rows = [{name: row[name] for name in kept} for row in collapse(trace(0, 140), start=80)]
    found = alarms(watch(rows))
    assert len(found) == 1 and 92 < found[0] <= 110
    assert not alarms(watch([{name: row[name] for name in kept} for row in trace(0, 140)]))


def test_what_falls_steeply_is_an_alarm_by_itself_and_what_only_rises_is_not() -> None:
    for sign in SIGNS:
        rows = trace(3, 80)
        for row in rows[70:]:
            name = sign.metrics[-1]
            row[name] = row[name] * 40 + 1 if sign.rises else row[name] - 10
        if sign.name == "entropy":
            # The removed view's entropy is the sum of two metrics, one of them this.
            for row in rows[70:]:
                row["perception/entropy_shift"] -= row["policy/entropy"]
        verdicts = watch(rows)
        assert sign.name in verdicts[-1].signs, sign.name
        assert {s.kind for s in SIGNS if s.name in verdicts[-1].signs} == {sign.kind}, sign.name
        by_itself = sign.kind == "outcome" and sign.alone
        assert bool(alarms(verdicts)) == by_itself, sign.name
        assert verdicts[-1].level == (2 if by_itself else 1)


@pytest.mark.parametrize(
    ("value", "z"),
    [(lambda n: 3.0 * n, 1.5), (lambda n: 1.05**n, 3.0), (lambda n: 1.1**n, 6.9)],
    ids=["straight", "5 % a step", "10 % a step"],
)
def test_drift_and_growth_have_the_z_that_the_guide_says(value: Callable[[int], float], z: float) -> None:
    memory, config = Memory(), GuardConfig(threshold=1e6, alone=1e6)
    rows = [{"kl_prcp/mean": value(step)} for step in range(1, 100)]
    verdicts = [observe(memory, step, row, config) for step, row in enumerate(rows)]
    assert verdicts[-1].z["kl_prcp"] == pytest.approx(z, abs=0.05)


def test_a_warmup_longer_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup 15 is longer than window 10.*raise \[guard\] window"):
        GuardConfig(window=10)


def test_one_step_or_two_of_nonsense_raise_no_sign() -> None:
    rows = trace(1, 120)
    for place in (50, 51, 80, 81, 100):
        rows[place] |= {name: 100 * value + 10 for name, value in rows[place].items()}
        rows[place] |= {"reward/mean": -50.0, "reward/format": 0.0, "completion/relatedness": 0.0}
    assert not alarms(watch(rows))
    assert max(verdict.level for verdict in watch(rows)) <= 1


def test_a_straight_drift_of_any_slope_is_no_sign() -> None:
    for slope in (0.001, 0.1, 10.0):
        rows = [
            {"kl_prcp/mean": 1 + slope * s, "policy/entropy": 1 + slope * s, "reward/mean": -slope * s}
            for s in range(200)
        ]
        assert {verdict.level for verdict in watch(rows)} == {0}


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_units_of_open_metrics_play_no_part(factor: float) -> None:
    scaled = ("kl_prcp/mean", "kl_prcp/variance", "policy/entropy", "perception/entropy_shift", "reward/mean")
    rows = collapse(trace(2, 140), start=80)
    other = [row | {name: factor * row[name] for name in (*scaled, "reward/std")} for row in rows]
    first, second = watch(rows), watch(other)
    assert [v.signs for v in first] == [v.signs for v in second]
    assert alarms(first) == alarms(second) != []
    assert first[-1].z["kl_prcp"] == pytest.approx(second[-1].z["kl_prcp"])


def test_nothing_is_said_while_warming_up() -> None:
    config = GuardConfig(warmup=30)
    verdicts = watch(collapse(trace(0, 60), start=10), config)
    assert {verdict.level for verdict in verdicts[: 30 + RECENT - 1]} == {0}
    assert all(not verdict.z for verdict in verdicts[: 30 + RECENT - 1])


def test_missing_and_nan_metrics_are_left_out() -> None:
    rows: list[dict[str, Any]] = list(trace(0, 60))
    for place in range(0, 60, 2):
        rows[place] = rows[place] | {"kl_prcp/mean": math.nan, "policy/entropy": None}
    memory = Memory()
    for step, row in enumerate(rows, start=1):
        observe(memory, step, row, GuardConfig())
    assert len(memory.usual["kl_prcp"]) == 30 - RECENT and len(memory.usual["reward"]) == 40
    assert observe(Memory(), 1, {}, GuardConfig()).level == 0


def test_a_guard_that_acts_speaks_again_after_its_cooldown_until_its_acts_are_spent() -> None:
    config, memory, found = GuardConfig(action="lower", cooldown=7, max_acts=2), Memory(), []
    for step, row in enumerate(collapse(trace(0, 140), start=80), start=1):
        if observe(memory, step, row, config).alarm:
            found.append(step)
            memory.acts += 1
    assert len(found) == 2 and found[1] == found[0] + 8
    assert memory.alarms == 2 and memory.collapsed and memory.told


def test_an_episode_ends_and_the_next_one_is_told_again() -> None:
    rows = collapse(trace(0, 60), start=50) + trace(1, 160)[60:] + collapse(trace(2, 90), start=70)[60:]
    found = alarms(watch(rows))
    assert len(found) == 2 and found[0] <= 62 and found[1] > 160


def test_memory_that_went_through_json_goes_on_alike() -> None:
    rows, config = collapse(trace(4, 140), start=80), GuardConfig(action="rollback")
    whole, memory = Memory(), Memory()
    for step, row in enumerate(rows, start=1):
        wanted = observe(whole, step, row, config)
        state = json.loads(json.dumps(asdict(State(step=step - 1, guard=memory))))
        memory = State.of(state, checkpoint=Path(f"step-{step - 1}")).guard
        assert observe(memory, step, row, config) == wanted
    assert memory == whole and whole.alarms > 0


def test_a_later_alarm_never_reaches_back_before_the_healthy_step() -> None:
    rows, config, memory = collapse(trace(5, 140), start=80), GuardConfig(), Memory()
    before = -math.inf
    for step, row in enumerate(rows, start=1):
        verdict = observe(memory, step, row, config)
        if verdict.alarm:
            assert verdict.onset >= before
        if not memory.collapsed:
            assert memory.healthy_step(step) >= before
            before = memory.healthy_step(step)
    assert memory.alarms == 1


def test_healthy_checkpoint_is_regular_old_enough_and_not_spoilt(tmp_path: Path) -> None:
    for step in (0, 5, 10, 12, 15, 20):
        (tmp_path / f"step-{step:06d}").mkdir()
        (tmp_path / f"step-{step:06d}" / "state.json").write_text("{}")

    def found(before: int, memory: Memory) -> str | None:
        path = healthy_checkpoint(tmp_path, memory, before=before, every=5)
        return None if path is None else path.name

    assert found(19, Memory()) == "step-000015"
    assert found(14, Memory()) == "step-000010"
    assert found(19, Memory(spoilt=[(5, 20)])) == "step-000005"
    assert found(20, Memory(spoilt=[(5, 20)])) == "step-000020"
    assert found(-1, Memory()) is None


def test_grammar_knows_its_own_texts_and_not_shuffled_ones() -> None:
    texts = list(corpus(40, seed=7))[1::2]
    assert all(grammar().share(text) == 1.0 for text in texts)
    rng = generator("shuffle")
    shuffled = [" ".join(rng.permutation(text.split())) for text in texts]
    assert np.mean([grammar().share(text) for text in shuffled]) < 0.5
    assert grammar().share("") == 0.0 and grammar().share("\\documentclass{ article }") < 0.5


TOUCHY: Mapping[str, Any] = {
    "threshold": 0.01,
    "alone": 0.02,
    "warmup": 5,
    "window": 8,
    "cooldown": 4,
    "max_acts": 2,
}
"""A guard that takes noise for a collapse: acts are tested in a dozen steps."""


def touchy(tiny_folder: Path, action: str, **changes: Any) -> Any:
    return world_config(tiny_folder, steps=20, guard={**TOUCHY, "action": action}, **changes)


RESTORED: list[tuple[str, bool]] = []
"""Checkpoints that `rolled` went back to, and whether the optimizer then held their moments."""


@pytest.fixture(scope="module")
def rolled(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went back twice; read only."""
    folder, load_checkpoint = tmp_path_factory.mktemp("rolled") / "run", guard.load_checkpoint

    def spy(path: Path, *, policy: Any, optimizer: torch.optim.Optimizer) -> Any:
        found = load_checkpoint(path, policy=policy, optimizer=optimizer)
        fresh = torch.load(path / "optimizer.pt", weights_only=True)["state"][0]["exp_avg"]
        kept = optimizer.state_dict()["state"][0]["exp_avg"]
        RESTORED.append((path.name, torch.equal(fresh, kept) and bool(kept.any())))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "load_checkpoint", spy)
        loop.start(touchy(tiny_folder, "rollback"), folder)
    return folder


def told(run: Path) -> list[dict[str, Any]]:
    return [line for line in lines(run) if line["kind"] == "guard"]


def test_rollback_goes_on_with_healthy_weights_other_data_and_a_lower_weight(rolled: Path) -> None:
    steps = [line for line in lines(rolled) if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, 21))
    acts = [line for line in told(rolled) if line["act"] != "warn"]
    assert [line["act"] for line in acts] == ["rollback", "rollback"]
    assert [line["scale"] for line in acts] == [0.5, 0.25]
    assert all(line["restored"] <= line["onset"] < line["step"] for line in acts)
    assert acts[1]["step"] > acts[0]["step"] + TOUCHY["cooldown"]
    for line in steps:
        scale = 0.5 ** sum(line["step"] > act["step"] for act in acts)
        assert line["guard/scale"] == scale
        assert line["loss/kl_prcp"] == pytest.approx(-0.1 * scale * line["kl_prcp/mean"], rel=0.1)
    by_step = {line["step"]: line for line in steps}
    first = acts[0]
    again, before = by_step[first["step"] + 1], by_step[first["restored"] + 1]
    assert again["reward/mean"] != before["reward/mean"]


def test_rollback_restores_weights_and_optimizer_of_the_named_checkpoint(rolled: Path) -> None:
    restored = [line["restored"] for line in told(rolled) if line["act"] == "rollback"]
    assert RESTORED == [(f"step-{step:06d}", True) for step in restored] != []


@pytest.mark.parametrize("moment", ["before the line", "line cut", "at the next checkpoint"])
def test_a_kill_during_a_rollback_changes_nothing(
    moment: str, rolled: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run, place = tmp_path / "run", told(rolled)[0]["step"]
    write, save = loop.RunFolder.metrics, loop.save_checkpoint

    def metrics(self: loop.RunFolder, line: Mapping[str, Any]) -> None:
        if line["kind"] == "guard" and moment == "before the line":
            raise ZeroDivisionError
        write(self, line)
        if line["kind"] == "guard" and moment == "line cut":
            raise ZeroDivisionError

    def killed(folder: Path, name: str, **given: Any) -> Path:
        if name.startswith("step") and int(name[5:]) > place and moment == "at the next checkpoint":
            raise ZeroDivisionError
        return save(folder, name, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.RunFolder, "metrics", metrics)
        patch.setattr(loop, "save_checkpoint", killed)
        with pytest.raises(ZeroDivisionError):
            loop.start(touchy(tiny_folder, "rollback"), run)
    if moment == "line cut":
        file = run / "metrics.jsonl"
        file.write_bytes(file.read_bytes()[:-20])
    loop.resume(run, config=load(run / "config.toml"))
    assert differences(run, rolled) == []


def test_a_run_killed_before_its_first_checkpoint_of_all_is_the_same(
    rolled: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Run, "_one_step", lambda self, folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loop.start(touchy(tiny_folder, "rollback"), run)
    assert [p.name for p in (run / "checkpoints").glob("step-*")] == ["step-000000"]
    loop.resume(run, config=load(run / "config.toml"))
    assert differences(run, rolled) == []


def test_stop_saves_the_healthy_weights_and_a_resume_goes_on_as_rollback_does(
    rolled: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Collapsed, match=r"stopped with the weights of step \d+.*foveal train --resume"):
        loop.start(touchy(tiny_folder, "stop"), run)
    first = told(rolled)[0]
    newest = latest_checkpoint(run / "checkpoints")
    assert newest is not None and newest.name == f"step-{first['step']:06d}"
    assert lines(run, "events.jsonl")[-1]["by"] == "guard"
    with pytest.raises(Collapsed):
        loop.resume(run, config=load(run / "config.toml"))
    loop.resume(run, config=load(run / "config.toml"))

    def without_act(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in line.items() if key != "act"} for line in lines]

    assert without_act(lines(run)) == without_act(lines(rolled))


def test_lower_changes_what_follows_and_warn_changes_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    for action in ("lower", "warn"):
        loop.start(touchy(tiny_folder, action), tmp_path / action)
    lowered, warned = told(tmp_path / "lower"), told(tmp_path / "warn")
    assert lowered[0]["act"] == "lower" and lowered[0]["scale"] == 0.5
    assert warned[0]["step"] == lowered[0]["step"] and {line["act"] for line in warned} == {"warn"}

    def moved(run: Path) -> list[float]:
        return [line["policy/grad_norm"] for line in lines(run) if line["kind"] == "step"]

    first, calm = lowered[0]["step"], moved(tmp_path / "warn")
    assert moved(tmp_path / "lower")[:first] == calm[:first]
    assert moved(tmp_path / "lower")[first] != calm[first]
    assert {line.get("guard/scale", 1.0) for line in lines(tmp_path / "warn")} == {1.0}
    assert not list((tmp_path / "warn" / "checkpoints").glob("step-000000"))


def test_only_the_checkpoints_that_are_needed_are_kept(rolled: Path) -> None:
    kept = sorted(p.name for p in (rolled / "checkpoints").glob("step-*"))
    assert kept[-1] == "step-000020" and len(kept) <= 5


def test_resume_of_a_finished_rolled_back_run_changes_nothing(rolled: Path, tmp_path: Path) -> None:
    shutil.copytree(rolled, tmp_path / "run")
    loop.resume(tmp_path / "run", config=load(rolled / "config.toml"))
    assert differences(tmp_path / "run", rolled) == []


def test_readers_of_steps_pass_over_the_guards_lines(rolled: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "job").symlink_to(rolled)
    made = {"name": "job", "method": "papo", "seed": 0, "config": "", "overrides": (), "problems": 1}
    job = Job(**made, steps=20, folder=str(tmp_path))
    spent = sum(line.get("time/cpu_s", 0.0) for line in read_lines(rolled / "metrics.jsonl"))
    assert step_seconds(job.run_folder, "time/cpu_s") == pytest.approx(spent, abs=0.01) and spent > 0
    assert _state(job) == (20, "evaluating")


def test_alarms_stand_on_the_page_in_words_and_as_marks(rolled: Path, tmp_path: Path) -> None:
    page = write_run_report(rolled, out=tmp_path / "page.html").read_text(encoding="utf-8")
    for line in told(rolled):
        assert in_words(line) in page
    lone = tmp_path / "lone"
    lone.mkdir()
    rows = [{"kind": "step", "step": s, "reward/mean": 0.5} for s in range(9)]
    (lone / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plain = write_run_report(lone).read_text(encoding="utf-8")
    assert "Collapse guard" not in plain
    rows.append({"kind": "guard", "step": 5, "now": "x", "act": "rollback", "scale": None})
    (lone / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    marked = write_run_report(lone).read_text(encoding="utf-8")
    assert "Collapse guard" in marked and marked.count("<path") > plain.count("<path")


def test_words_say_what_was_seen_and_done() -> None:
    line = {
        "step": 60,
        "onset": 51,
        "now": {"kl_prcp": 2.314, "entropy": 0.4},
        "usual": {"kl_prcp": 0.31, "entropy": 0.12},
        "act": "rollback",
        "restored": 50,
        "scale": 0.5,
    }
    assert in_words(line) == (
        "step 60: kl_prcp is 2.31 (usually 0.31), the entropy is 0.4 (usually 0.12); healthy up to step 51; "
        "back to the weights of step 50; the weight of the perception terms is now 0.5 of the configured one"
    )


def test_guard_works_without_perception_terms_and_lower_is_refused_there(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r'guard.action is "lower", but grpo pays nothing.*change \[guard\]'
    ):
        touchy(tiny_folder, "lower", objective={"type": "grpo"})
    loop.start(touchy(tiny_folder, "rollback", objective={"type": "grpo"}), tmp_path / "grpo")
    assert told(tmp_path / "grpo")[0]["act"] == "rollback"


@pytest.mark.parametrize("field", ["threshold = 0", "factor = 1.0", "action = 'halt'", "warmup = 2"])
def test_config_errors_name_the_field(field: str, tiny_folder: Path) -> None:
    name, _, value = field.partition(" = ")
    given: Any = value.strip("'") if "'" in value else float(value)
    with pytest.raises(ConfigError, match=f"guard.{name}"):
        world_config(tiny_folder, guard={name: given})
