"""The plan of a sweep: its arms, checked before anything runs, its jobs, and the folder that holds it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from foveal.config import RunConfig, dump, load
from foveal.crosscheck import used_perturbations
from foveal.data.views import check_perturbations
from foveal.evaluation.compare import COLD_START
from foveal.evaluation.records import Evaluation
from foveal.jobs import folder
from foveal.jobs.job import Job
from foveal.spec import ConfigError, FovealError, explain
from foveal.sweep.grid import Arm, Axis, SweepTable, arms_of, axes_of, require_no_seed
from foveal.tables import PLUGIN_FOLDERS, apply_override, read_table, shipped
from foveal.types import Problem

SCHEMA_VERSION = 1
PLAN = "sweep_plan.json"
CONFIGS = "configs"
SWEEP = "sweep"
"""Table of a config that says what is varied."""


@dataclass(frozen=True, kw_only=True)
class SweepJob(Job):
    """One run of a sweep."""

    worker: ClassVar[str] = "foveal.sweep.worker"

    import_paths: tuple[str, ...] = ()
    """Folders in which modules of the user's own are found."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A sweep whose every arm is known to be a config that can run."""

    name: str
    base: Mapping[str, Any]
    """The tables that all arms share, before what an arm sets."""
    axes: tuple[Axis, ...]
    arms: tuple[Arm, ...]
    configs: Mapping[str, RunConfig]
    """By the arm's name."""
    seeds: int
    problems: int
    command: str

    @property
    def comparable(self) -> bool:
        """Whether all arms start from one model and are evaluated on the same problems."""
        first, *rest = [_judged_by(config) for config in self.configs.values()]
        return all(one == first for one in rest)

    def jobs(self, out: Path) -> list[SweepJob]:
        """The model before training where all arms share it, then seed by seed, so that a stopped sweep has
        whole seeds.
        """

        def job(arm: Arm, seed: int | None) -> SweepJob:
            return SweepJob(
                name=COLD_START if seed is None else f"{arm.name}-seed{seed}",
                method=COLD_START if seed is None else arm.name,
                seed=seed,
                config=str(config_file(out, arm.name)),
                overrides=() if seed is None else (f"seed={seed}",),
                steps=0 if seed is None else self.configs[arm.name].steps,
                problems=self.problems,
                folder=str(out),
                import_paths=tuple(PLUGIN_FOLDERS),
            )

        start = [job(self.arms[0], None)] if self.comparable else []
        return [*start, *(job(arm, seed) for seed in range(self.seeds) for arm in self.arms)]


def read_plan(
    source: Path,
    *,
    overrides: Sequence[str] = (),
    sets: Sequence[str] = (),
    seeds: int | None = None,
    steps: int | None = None,
    problems: int | None = None,
) -> Plan:
    """Read a config and what is varied, and check every arm.

    `overrides` hold for all arms; `sweep.arms.NAME.KEY=VALUE` changes what one arm sets.
    Raises: ConfigError, naming the arm and what is wrong with it.
    """
    base = read_table(source)
    for override in overrides:
        require_no_seed(override.partition("=")[0])
        apply_override(base, override)
    if steps is not None:
        base["steps"] = steps
    table = _sweep_table(base.pop(SWEEP, {}), source)
    axes = axes_of(table, sets)
    arms = arms_of(table, axes)
    options = {"seeds": seeds, "steps": steps, "problems": problems}
    own = shipped(source.stem) == source
    words = [source.stem if own else str(source), *overrides, *(w for one in sets for w in ("--set", one))]
    words += [w for name, value in options.items() if value is not None for w in (f"--{name}", str(value))]
    return Plan(
        name=source.stem,
        base=base,
        axes=axes,
        arms=tuple(arms),
        configs=_configs(base, arms, source),
        seeds=seeds if seeds is not None else table.seeds,
        problems=problems if problems is not None else table.problems,
        command=shlex.join(["foveal", "sweep", *words]),
    )


def _sweep_table(found: object, source: Path) -> SweepTable:
    if not isinstance(found, Mapping):
        raise ConfigError(f"{source}: sweep = {found!r} is not a table; write [sweep]")
    try:
        return SweepTable.model_validate(found)
    except ValidationError as error:
        raise ConfigError(explain(error, SweepTable, where=f"{source}: [sweep]")) from error


def _configs(base: Mapping[str, Any], arms: Sequence[Arm], source: Path) -> dict[str, RunConfig]:
    found, wrong = {}, []
    for arm in arms:
        try:
            found[arm.name] = _config(base, arm, source)
        except FovealError as error:
            wrong.append(f"arm {arm.name}: {error}")
    if wrong:
        more = f"\n({len(wrong) - 1} more arms are refused too)" if len(wrong) > 1 else ""
        raise ConfigError(f"{wrong[0]}{more}")
    return found


def _config(base: Mapping[str, Any], arm: Arm, source: Path) -> RunConfig:
    from foveal.train.paths import with_absolute_paths

    try:
        config = load(base, overrides=arm.overrides)
    except ConfigError as error:
        named = arm.point.get("arm")
        hint = f"\nchange what the arm sets by sweep.arms.{named}.KEY=VALUE, or in {source}" if named else ""
        raise ConfigError(f"{error}{hint}") from error
    folder.check_model(config.model.path, where="model.path =")
    return with_absolute_paths(config)


def check_data(plan: Plan) -> None:
    """Held-out problems are there and enough of them, and every arm's perturbations can be made.

    Each distinct set of problems is opened once. Raises: FovealError, naming the first arm that cannot run.
    """
    from foveal.jobs.worker import require_heldout
    from foveal.train.setup import open_problems

    heldout: list[Any] = []
    training: list[tuple[Any, Sequence[Problem]]] = []
    for arm in plan.arms:
        config = plan.configs[arm.name]
        key, own = _judged_by(config)["data"], config.data.model_dump()
        try:
            if key not in heldout:
                heldout.append(key)
                require_heldout(config, plan.problems)
            if own not in [data for data, _ in training]:
                training.append((own, open_problems(config.data)))
            problems = next(found for data, found in training if data == own)
            check_perturbations(used_perturbations(config), problems=problems)
        except FovealError as error:
            raise FovealError(f"arm {arm.name}: {error}") from error


def _judged_by(config: RunConfig) -> dict[str, Any]:
    """What an evaluation depends on beside the training: the start, the problems, the rewards."""
    data = config.validation.data if config.validation is not None else config.data
    return {
        "model": config.model.model_dump(),
        "data": data.model_dump(),
        "rewards": [reward.model_dump() for reward in config.rewards],
        "longest": config.sampling.max_new_tokens,
    }


def claim(out: Path, plan: Plan) -> None:
    """Make the folder, note the plan in it and write the config of each arm.

    A sweep may get more seeds and more values later; what was begun must stay what it is.
    Raises: FovealError, when the folder cannot be written, or holds something else.
    """
    settings = _settings(plan)
    folder.claim(out, PLAN, settings, conflict=lambda before: _conflict(out, before, settings))
    try:
        (out / CONFIGS).mkdir(exist_ok=True)
        for name, config in plan.configs.items():
            config_file(out, name).write_text(dump(config), encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise FovealError(f"--out {out} cannot be written: {reason}; choose another") from error


def config_file(out: Path, arm: str) -> Path:
    """The resolved config of an arm: `foveal train` takes it."""
    return out / CONFIGS / f"{arm}.toml"


def _settings(plan: Plan) -> dict[str, Any]:
    found = {
        "schema_version": SCHEMA_VERSION,
        "name": plan.name,
        "command": plan.command,
        "seeds": plan.seeds,
        "problems": plan.problems,
        "comparable": plan.comparable,
        "base": plan.base,
        "axes": [{"key": axis.key, "values": axis.values} for axis in plan.axes],
        "arms": [
            {
                "name": arm.name,
                "label": arm.label,
                "point": arm.point,
                "overrides": arm.overrides,
                "steps": plan.configs[arm.name].steps,
            }
            for arm in plan.arms
        ],
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _conflict(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What forbids to go on in a folder that was begun with `before`."""
    away = f"choose another --out, or delete {out}"
    if before.get("problems") != now["problems"]:
        return (
            f"{out} holds a sweep over {before.get('problems')} held-out problems, not {now['problems']}; "
            f"pass --problems {before.get('problems')}, or {away}"
        )
    changed = _difference(before.get("base"), now["base"])
    if changed is not None:
        return f"{out} holds a sweep of another config: {changed}; {away}"
    set_before = {arm["name"]: arm["overrides"] for arm in before.get("arms", ())}
    for arm in now["arms"]:
        was = set_before.get(arm["name"], arm["overrides"])
        if was != arm["overrides"]:
            return f"{out}: arm {arm['name']} set {', '.join(was)}, now {', '.join(arm['overrides'])}; {away}"
    missing = [name for name in set_before if name not in {arm["name"] for arm in now["arms"]}]
    if missing:
        return (
            f"{out} also holds the arms {', '.join(missing)}, which would be left out of its results; give "
            f"all values, those of before too, or {away}"
        )
    if before.get("seeds", 0) > now["seeds"]:
        return (
            f"{out} holds {before['seeds']} seeds, and {now['seeds']} would leave some out; pass --seeds "
            f"{before['seeds']} or more, or {away}"
        )
    return None


def _difference(before: object, now: object, place: str = "") -> str | None:
    """The first key whose value changed, and how."""
    if before == now:
        return None
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *now]:
            inner = _difference(before.get(key), now.get(key), f"{place}.{key}" if place else str(key))
            if inner is not None:
                return inner
    return f"{place} was {_words(before)}, now {_words(now)}"


def _words(value: object) -> str:
    return "not set" if value is None else json.dumps(value)


def whole(job: SweepJob) -> bool:
    """Whether the results of a finished job are there and can be read."""
    try:
        done = json.loads(job.done_file.read_text(encoding="utf-8"))
        found = Evaluation.load(Path(job.folder) / "evaluations" / f"{job.name}.json")
    except (OSError, ValueError, TypeError, FovealError):
        return False
    return isinstance(done, dict) and "seconds" in done and len(found.records) == job.problems
