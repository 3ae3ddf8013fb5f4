"""The training loop: draw, grade, step, validate, save; and how a run starts, stops and goes on."""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from foveal.collapse import Verdict, observe, observe_validation
from foveal.config import RunConfig
from foveal.crosscheck import used_perturbations
from foveal.data.collate import collate
from foveal.data.views import check_perturbations
from foveal.policy.checkpoint import (
    PREFIX,
    clean_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    recover,
    require_finite,
    save_checkpoint,
)
from foveal.policy.model import Policy
from foveal.rewards.grading import Grader, GradingError
from foveal.rollout.local import LocalEngine
from foveal.signs import in_words
from foveal.train.choices import choose
from foveal.train.clock import Clock
from foveal.train.draw import draw_rounds
from foveal.train.grade import GradersFailed, StepGrading, require_golds, saved_when_graders_fail
from foveal.train.graphs import kept_for_update
from foveal.train.groups import group_metrics, relatedness
from foveal.train.guard import RETURNS, collapsed, respond, spared
from foveal.train.measure import keep_freed_memory
from foveal.train.parity import parity_event, parity_in_words
from foveal.train.paths import with_absolute_paths
from foveal.train.pictures import Moment, Pictures
from foveal.train.profile import Profiler, require_steps
from foveal.train.record import MEASURED, METRICS, SUMMARY, RunFolder, write_json, writing
from foveal.train.settings import StepSettings
from foveal.train.setup import largest_group, open_problems, optimizer_of, reference_policy, trained_policy
from foveal.train.state import State
from foveal.train.step import StepResult, train_step
from foveal.train.stop import Interrupted, Stop, require_progress, stop_signals
from foveal.train.usable import TRAIN, VALIDATION, check_problems, read_choices, write_choices
from foveal.train.validate import Validator
from foveal.train.watcher import Silent, Watcher
from foveal.types import Completion, Group, Objective, Problem

BEST = "best"


def start(
    config: RunConfig, out: Path, *, watcher: Watcher | None = None, profile: int | None = None
) -> dict[str, Any]:
    """Train from the beginning into a new run folder; returns the summary.

    `profile`: so many early steps are timed by phase into `profile.json` and `profile.png`.

    Raises: FovealError for what a user can mend; Interrupted after a stop that saved.
    """
    RunFolder.require_free(out)
    require_steps(profile, left=config.steps)
    config = with_absolute_paths(config)
    run = Run.prepare(config, watcher=watcher or Silent())
    run.profile = profile
    with closing(run), RunFolder.started(out, config) as folder:
        return run.train(folder)


def resume(
    out: Path, *, config: RunConfig, watcher: Watcher | None = None, profile: int | None = None
) -> dict[str, Any]:
    """Go on from the newest whole checkpoint of a run folder, or from its beginning where there is none.

    A run that is finished is left as it is.
    """
    watcher = watcher or Silent()
    with closing(RunFolder.open(out)) as folder:
        summary = folder.summary()
        if summary is not None and summary["steps"] >= config.steps:
            watcher.message(
                f"{out} is finished, nothing is left to do; its {config.steps} steps are all there"
            )
            return summary
        run = Run.prepare(config, watcher=watcher, folder=folder)
        run.profile = profile
        with closing(run):
            return run.train(folder)


class Run:
    """A run's moving parts. Everything random is keyed by (seed, step, problem), so a resumed run repeats
    itself."""

    def __init__(
        self,
        config: RunConfig,
        policy: Policy,
        reference: Policy | None,
        grader: Grader,
        watcher: Watcher,
    ) -> None:
        self.config = config
        self.policy = policy
        self.reference = reference
        self.measured: dict[str, Any] = {}
        self.watcher, self.stop = watcher, Stop()
        self.engine = LocalEngine(policy, decode=config.sampling.decode)
        self.problems: Sequence[Problem] = open_problems(config.data)
        self.grader = grader
        self.optimizer = optimizer_of(config, policy)
        self.step_settings = StepSettings.of(config)
        self.state = State()
        self.relatedness = relatedness(config.data)

    @classmethod
    def prepare(cls, config: RunConfig, *, watcher: Watcher, folder: RunFolder | None = None) -> "Run":
        """Load everything and check the data, before anything is written. `folder`: of a run that goes on."""
        keep_freed_memory()
        with ExitStack() as stack:
            grader = Grader(config.rewards, config.grading, used=config.objective.uses_rewards)
            stack.enter_context(grader)
            grader.start()  # while the model loads
            run = cls(config, trained_policy(config), reference_policy(config), grader, watcher)
            run._check(folder)
            stack.pop_all()
        return run

    def _check(self, folder: RunFolder | None) -> None:
        """Check the data; choose what is chosen by measurement. A run that goes on keeps its choices."""
        config, policy, message = self.config, self.policy, self.watcher.message
        measured, kept = (folder.measured(), read_choices(folder.path)) if folder is not None else (None, {})
        before, data = kept.get(TRAIN), config.data
        usable = check_problems(self.problems, policy.processor, config, data, message=message, kept=before)
        longest, self.problems = usable.longest, usable.problems
        self.pictures = Pictures.of(config, self.problems, policy)
        message(largest_group(longest, config))
        check_perturbations(used_perturbations(config), problems=self.problems)
        if measured is None:
            require_golds(self.grader, self.problems, config=config, message=message)
            self.grader.wait()  # what is measured is not to share the machine with the workers' start
        self.measured = choose(
            config, policy, self.reference, self.engine, longest=longest, recorded=measured, message=message
        )
        before = kept.get(VALIDATION)
        self.validator = Validator.of(config, policy, self.engine, self.grader, message=message, kept=before)
        chosen = None if self.validator is None else self.validator.choice
        self.choices = {TRAIN: usable.choice, VALIDATION: chosen}

    def close(self) -> None:
        """End the workers."""
        self.pictures.close()
        self.grader.close()

    validator: Validator | None = None
    profile: int | None = None
    """Steps to profile."""
    _held = 0
    """Prompt tokens of this step that are held for its update."""
    _grading: StepGrading
    """What this step's grading found."""
    _collapse: Mapping[str, Any] | None = None
    """The guard's line, once it has stopped the run."""

    def train(self, folder: RunFolder) -> dict[str, Any]:
        """Run to the last step; saves and raises `Interrupted` at SIGINT or SIGTERM."""
        self._restore(folder)
        self.grader.keep_in(folder.path)
        config, watcher = self.config, self.watcher
        require_steps(self.profile, left=config.steps - self.state.step)
        profiler = Profiler(self.profile or 0, device=self.policy.device, message=watcher.message)
        with closing(self), stop_signals(watcher.message) as self.stop:
            watcher.start(config, self.state.step, folder.path)
            if not folder.validated(self.state.step):
                with saved_when_graders_fail(self.state, folder, save=self._save):
                    self._validate_if_due(folder)
            if self.state.step == 0 and config.guard.action in RETURNS:
                self._save(folder)
            while self.state.step < config.steps:
                with saved_when_graders_fail(self.state, folder, save=self._save):
                    with profiler.step(self.state.step + 1, folder.path):
                        self._one_step(folder)
                    self._validate_if_due(folder)
                due = self.state.step % config.checkpoint.every == 0 or self.state.step == config.steps
                if due or self.stop.asked or self._collapse:
                    self._save(folder)
                if self._collapse and self.state.step < config.steps:
                    folder.event("stopped", {"step": self.state.step, "by": "guard"})
                    raise collapsed(self._collapse, folder.path)
                if self.stop.asked and self.state.step < config.steps:
                    folder.event("stopped", {"step": self.state.step})
                    raise Interrupted(
                        f"stopped after step {self.state.step} of {config.steps}; everything is saved; "
                        f"go on with: foveal train --resume {folder.path}"
                    )
        return self._finish(folder)

    def _restore(self, folder: RunFolder) -> None:
        recover(folder.checkpoints)
        newest = latest_checkpoint(folder.checkpoints)
        if newest is not None:
            saved = load_checkpoint(newest, policy=self.policy, optimizer=self.optimizer)
            self.state = State.of(saved, checkpoint=newest)
            self.engine.load_weights({}, version=self.state.step)
        began = (folder.path / METRICS).exists()
        # Nothing of step 0 stays: the validation before the first step comes before its checkpoint.
        folder.rewind(self.state.step or -1)
        if folder.measured() != self.measured:
            write_json(folder.path / MEASURED, self.measured)
        write_choices(folder.path, self.choices)
        folder.event("resumed" if began else "started", {"step": self.state.step})

    def _one_step(self, folder: RunFolder) -> None:
        config, step = self.config, self.state.step
        objective, moment, clock = self._objective(step), Moment.of(config, step), Clock()
        groups, drawn = self._sample(step)
        clock.lap("sample_s")
        inputs = collate(
            self._grading.comparable(groups),
            processor=self.policy.processor,
            views=objective.views,
            perturbations=config.perturbations,
            key=moment.key,
            progress=moment.progress,
            donors=self.problems,
            made=self.pictures.made,
        )
        self.pictures.forget_views()
        clock.lap("collate_s")
        for group in self.optimizer.param_groups:
            group["lr"] = config.optimizer.lr * min(1.0, (step + 1) / max(1, config.optimizer.warmup_steps))
        result = train_step(
            self.policy,
            self.reference,
            self.optimizer,
            inputs.to(self.policy.device),
            objective,
            self._settings,
        )
        clock.lap("update_s")
        self.state.step += 1
        skipped = int(result.metrics["policy/skipped_count"])
        self.state.skipped += skipped
        self.state.idle = self.state.idle + 1 if skipped >= result.updates else 0
        self.engine.load_weights({}, version=self.state.step)
        verdict = self._record(folder, groups, drawn, result, clock)
        if result.distrusted:
            self.state.distrusted = True
            found = parity_event(result.metrics, step=self.state.step, limits=self.step_settings)
            folder.event("sampler_distrusted", found)
            self.watcher.message(parity_in_words(found))
        if skipped or result.metrics["completion/nonfinite_count"]:
            require_finite(self.policy, folder.checkpoints, after=f"stopped after step {self.state.step}")
        require_progress(self.state.idle, step=self.state.step, steps=config.steps)
        self._guard(folder, verdict)

    @property
    def _settings(self) -> StepSettings:
        """The step's, without what the sampler records once that was found wrong."""
        return replace(self.step_settings, score_old=self.step_settings.score_old or self.state.distrusted)

    def _sample(self, step: int) -> tuple[list[Group], int]:
        """Graded groups, drawn until the objective keeps enough; and how many were drawn. Where graders fail,
        the problems are the next ones again."""
        cursor, wanted = self.state.cursor, self.config.sampling.prompts_per_step
        self._grading = StepGrading(self.grader, where=f"step {step + 1}")
        rounds = (self._draw(step, wanted) for _ in itertools.count())
        try:
            gathered = self._grading.gather(rounds, self.config)
        except (GradersFailed, GradingError):
            self.state.cursor = cursor
            raise
        self._held = self.policy.held.tokens
        return gathered.groups, gathered.drawn

    def _draw(self, step: int, count: int) -> list[tuple[Problem, tuple[Completion, ...]]]:
        """The next problems with their completions; meanwhile pictures are made."""
        config, moment = self.config, Moment.of(self.config, step)
        sampling = kept_for_update(config.sampling.sampling(), config.objective, self._settings)
        rounds = self.pictures.take(self.state.cursor, count)
        self.state.cursor += count
        for _, problems in rounds:
            self.pictures.expect_views(problems, self._objective(step).views, moment)
        if step + 1 < config.steps:
            self.pictures.expect(self.state.cursor, count)
        return draw_rounds(
            self.engine,
            rounds,
            sampling=sampling,
            shares=config.objective.sample_views(step, steps=config.steps),
            shown=partial(self.pictures.shown, moment=moment),
            key=(config.seed, "sample", step),
            finished=self._grading.start,
        )

    def _objective(self, step: int) -> Objective:
        """The objective with its coefficients of a step."""
        return self.config.objective.at(step, steps=self.config.steps).scaled(self.state.guard.scale)

    def _record(
        self, folder: RunFolder, groups: Sequence[Group], drawn: int, result: StepResult, clock: Clock
    ) -> Verdict:
        config = self.config
        line: dict[str, Any] = {
            "kind": "step",
            "step": self.state.step,
            "policy_version": self.state.step - 1,
        }
        line |= result.metrics
        line |= group_metrics(groups, self.relatedness)
        line["sampler/groups_drawn_count"] = drawn
        line["sampler/groups_kept_count"] = len(groups)
        line["sampler/held_tokens"] = self._held
        line |= self._grading.metrics()
        line["policy/lr"] = self.optimizer.param_groups[0]["lr"]
        line["guard/scale"] = self.state.guard.scale
        verdict = observe(self.state.guard, self.state.step, line, config.guard)
        line["guard/level"] = verdict.level
        line |= clock.metrics()
        folder.metrics(line)
        folder.completions(
            self.state.step,
            groups,
            result.per_token,
            limit=config.record.groups,
            token_groups=config.record.token_groups,
        )
        self.stop.hear(self.watcher.step(line))
        return verdict

    def _guard(self, folder: RunFolder, verdict: Verdict) -> None:
        """What the guard does about an alarm, and its line."""
        line = respond(
            verdict,
            self.state.guard,
            step=self.state.step,
            config=self.config,
            checkpoints=folder.checkpoints,
            policy=self.policy,
            optimizer=self.optimizer,
        )
        if line is None:
            return
        self.engine.load_weights({}, version=self.state.step)
        folder.metrics(line)
        self.watcher.message(f"collapse guard: {in_words(line)}")
        if line["act"] == "stop":
            self._collapse = line

    def _validate_if_due(self, folder: RunFolder) -> None:
        """Validate after every so many steps, and before the first one."""
        config = self.config.validation
        if config is not None and self.state.step % config.every == 0:
            self._validate(folder)

    def _validate(self, folder: RunFolder) -> None:
        if self.validator is None:
            return
        clock = Clock()
        with writing(folder.path / "validation"):
            found = self.validator.run(self.state.step, folder.path)
        clock.lap("validate_s")
        accuracy = found["validation/accuracy"]
        verdict = observe_validation(
            self.state.guard,
            self.state.step,
            accuracy,
            answers=self.validator.answers,
            config=self.config.guard,
        )
        line = {"kind": "validation", "step": self.state.step, **found, **clock.metrics()}
        folder.metrics(line)
        self.stop.hear(self.watcher.step(line))
        if self.state.step and accuracy > self.state.best.get("accuracy", -1.0):
            self.state.best = {"step": self.state.step, "accuracy": accuracy}
            save_checkpoint(
                folder.checkpoints, BEST, policy=self.policy, optimizer=None, state={"best": self.state.best}
            )
        self._guard(folder, verdict)

    def _save(self, folder: RunFolder) -> None:
        folder.sync()
        name = f"{PREFIX}{self.state.step:06d}"
        save_checkpoint(
            folder.checkpoints, name, policy=self.policy, optimizer=self.optimizer, state=asdict(self.state)
        )
        spare = spared(folder.checkpoints, self.state.guard, step=self.state.step, config=self.config)
        clean_checkpoints(folder.checkpoints, keep=self.config.checkpoint.keep, spare=spare)

    def _finish(self, folder: RunFolder) -> dict[str, Any]:
        final = folder.checkpoints / f"{PREFIX}{self.state.step:06d}"
        summary = self.state.summary(self.config, model=str((final / "model").relative_to(folder.path)))
        write_json(folder.path / SUMMARY, summary)
        folder.event("finished", {"step": self.state.step})
        return summary
