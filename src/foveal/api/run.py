"""A run folder as an object."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.api.arguments import path_of
from foveal.api.frames import frame
from foveal.config import RunConfig
from foveal.rewards.adapters import unprovided
from foveal.spec import FovealError
from foveal.train.assess import model_folder
from foveal.train.record import COMPLETIONS, METRICS, SUMMARY, read_lines, require_run
from foveal.train.reopen import run_config

if TYPE_CHECKING:
    from foveal.evaluation.records import Evaluation
    from foveal.policy.model import Policy


class Run:
    """A run in its folder: what it measured, what it said, and the model that it made.

    `foveal.train` and `foveal.resume` return one; `foveal.Run("runs/papo")` opens an earlier one. Everything
    is read from the folder when it is asked for, so a run that is going on can be looked at too.
    """

    def __init__(self, path: str | Path, *, config: RunConfig | None = None) -> None:
        """Raises: FovealError, when the folder holds no run."""
        self.path = place_of_run(path, name="foveal.Run")
        require_run(self.path)
        self.given = config
        """The configuration that this run was started with in this process; None for an earlier one."""

    @cached_property
    def config(self) -> RunConfig:
        """Its configuration, every field resolved. A reward that was a function of a notebook can be looked
        at, and not called: `foveal.resume(path, rewards=[function])` takes it again."""
        if self.given is not None:
            return self.given
        with unprovided():
            return run_config(self.path)

    @property
    def metrics(self) -> Any:  # noqa: ANN401
        """One row per step, as a pandas DataFrame; docs/metrics.md says what each column is."""
        return frame(self._lines("step"))

    @property
    def validations(self) -> Any:  # noqa: ANN401
        """One row per validation, as a pandas DataFrame; step 0 is before training."""
        return frame(self._lines("validation"))

    @property
    def completions(self) -> Any:  # noqa: ANN401
        """The completions that were written down (`record.groups` groups per step), as a pandas DataFrame."""
        return frame(_read(self.path / COMPLETIONS))

    @property
    def step(self) -> int:
        """Finished steps."""
        return max((int(line["step"]) for line in self._lines("step")), default=0)

    @property
    def finished(self) -> bool:
        """Whether all its steps are done."""
        return (self.path / SUMMARY).is_file()

    @property
    def model(self) -> Path:
        """The newest checkpoint's model, a Hugging Face folder.

        Raises: FovealError, when there is no checkpoint yet.
        """
        return Path(model_folder(str(self.path)))

    @property
    def best_model(self) -> Path | None:
        """The model that was best in validation; None without one."""
        folder = self.path / "checkpoints" / "best" / "model"
        return folder if folder.is_dir() else None

    def policy(self) -> "Policy":
        """The newest checkpoint's model, loaded: `policy.model` is the transformers model."""
        from foveal.train.setup import policy_of

        model = self.config.model.model_copy(update={"path": str(self.model)})
        return policy_of(self.config.model_copy(update={"model": model}))

    def evaluate(self, data: Any = None, **settings: Any) -> "Evaluation":
        """Accuracy of its model; `foveal.evaluate` says what the arguments are."""
        from foveal.api.evaluating import evaluate

        return evaluate(self, data, **settings)

    def report(self) -> Path:
        """Write its page, report.html, and return the path.

        Raises: FovealError, when the extra `report` is not installed.
        """
        try:
            from foveal.report.run_page import write_run_report
        except ModuleNotFoundError as error:
            raise FovealError(
                f"a report needs the extra report, {error.name} is missing: pip install 'foveal[report]'"
            ) from error
        return write_run_report(self.path)

    def __repr__(self) -> str:
        lines = self._lines("step")
        last = f", reward {lines[-1]['reward/mean']:.3f}" if lines else ""
        state = "finished" if self.finished else "not finished"
        return f"Run({str(self.path)!r}: {self.step} steps, {state}{last})"

    def _lines(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in _read(self.path / METRICS) if line.get("kind") == kind]


def place_of_run(path: object, *, name: str) -> Path:
    """The folder of a run, or of a `Run`.

    Raises: ConfigError for what is neither.
    """
    if isinstance(path, Run):
        return path.path
    return path_of(path, name=f"{name}: path", expected="a run folder, or a foveal.Run")


def _read(file: Path) -> list[dict[str, Any]]:
    return read_lines(file) if file.is_file() else []
