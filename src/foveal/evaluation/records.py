"""What an evaluation found: one record a problem, their summary, and the two files they are kept in.

`NAME.jsonl` has a line a problem, `NAME.json` the settings and the summary. Imports no torch, so that pages
can be made from the files alone.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from foveal.diagnosis.errors import PERCEPTION, shares
from foveal.evaluation import stats
from foveal.evaluation.stats import Estimate
from foveal.spec import FovealError

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ProblemRecord:
    """The k completions of one problem, graded. Tuples have one entry a completion."""

    id: str
    answer: str
    """The gold answer."""
    correct: tuple[bool, ...]
    texts: tuple[str, ...]
    lengths: tuple[int, ...]
    """Tokens, the end token included."""
    truncated: tuple[bool, ...]
    kinds: tuple[str, ...] | None = None
    """Verdicts of the judge (see `foveal.diagnosis.errors.KINDS`); None where the scene is not known."""
    format: tuple[bool, ...] | None = None
    """Whether the answer could be read; None where nothing measures it."""
    correct_other_picture: tuple[bool, ...] | None = None
    """The same question over pictures of another problem; None where it was not asked or no donor fits."""
    family: str | None = None
    grade: str | None = None
    template: str | None = None
    cluster: str | None = None
    """Problems with one label are versions of one question, such as MathVerse's five, and are resampled
    together; None where each stands for itself."""
    failed: tuple[bool, ...] | None = None
    """Completions of which the grader could not say whether they are right, so that they are not counted;
    None without any."""
    failed_other_picture: tuple[bool, ...] | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of its graded completions that are right (avg@k); None where none could be graded."""
        return _graded_share(self.correct, self.failed)

    @property
    def accuracy_other_picture(self) -> float | None:
        """The same over another problem's pictures."""
        right = self.correct_other_picture
        return None if right is None else _graded_share(right, self.failed_other_picture)

    @property
    def perception_error_fraction(self) -> float | None:
        """Share of its completions, right ones included, that misstate what is seen."""
        return None if self.kinds is None else _share([kind == PERCEPTION for kind in self.kinds])

    @property
    def format_fraction(self) -> float | None:
        """Share of its completions whose answer could be read."""
        return None if self.format is None else _share(self.format)


QUANTITIES: Mapping[str, Callable[[ProblemRecord], float | None]] = {
    "accuracy": lambda record: record.accuracy,
    "accuracy_other_picture": lambda record: record.accuracy_other_picture,
    "perception_error_fraction": lambda record: record.perception_error_fraction,
    "format": lambda record: record.format_fraction,
}
"""What is averaged over problems, in the order in which it is shown."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The records of all problems and how they were made."""

    records: tuple[ProblemRecord, ...]
    k: int
    greedy: bool
    max_new_tokens: int
    name: str = ""
    method: str = ""
    seed: int | None = None
    model: str = ""
    """The folder or hub id of the weights; for a validation between steps the run folder."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the data: path, split, limit and so on, as in `[data]` of a config."""
    level: float = field(default=stats.LEVEL)
    bad_rows: Mapping[str, int] = field(default_factory=dict)
    """Rows left out because they cannot be used, by kind (see `foveal.data.bad_rows.KINDS`)."""

    @cached_property
    def kinds(self) -> list[str]:
        """All verdicts, problem after problem."""
        return [kind for record in self.records for kind in record.kinds or ()]

    @cached_property
    def accuracy(self) -> Estimate:
        """Mean over the problems that could be graded of avg@k, with its bootstrap interval over problems.

        Raises: FovealError, when no completion could be graded.
        """
        found = _estimate(self.records, "accuracy", level=self.level)
        if found is None:
            raise FovealError(
                f"none of the completions of {len(self.records)} problems could be graded; look at the "
                f"warnings of the rewards, and at [grading] and [[rewards]]"
            )
        return found

    @property
    def failed_count(self) -> int:
        """Completions that could not be graded, those over other pictures too."""
        return sum(sum(r.failed or ()) + sum(r.failed_other_picture or ()) for r in self.records)

    def estimate(self, quantity: str) -> Estimate | None:
        """The mean of one of `QUANTITIES` over the problems that have it; None where none has."""
        return _estimate(self.records, quantity, level=self.level)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Everything above in plain numbers; estimates are {value, low, high, count}."""
        lengths = [n for r in self.records for n in r.lengths]
        judged = [(r.correct, r.kinds) for r in self.records if r.kinds is not None]
        agree = [
            c == (k == "correct") for correct, kinds in judged for c, k in zip(correct, kinds, strict=True)
        ]
        return {
            "problems": len(self.records),
            "completions": len(lengths),
            "failed_count": self.failed_count,
            **_estimates(self.records, level=self.level),
            "kinds": shares(self.kinds),
            "judge_agreement_fraction": _share(agree) if agree else None,
            "completion_length_mean": sum(lengths) / len(lengths),
            "completion_truncated_fraction": _share([t for r in self.records for t in r.truncated]),
            "by_family": self._by(lambda record: record.family),
            "by_grade": self._by(lambda record: record.grade),
        }

    def _by(self, label: Callable[[ProblemRecord], str | None]) -> dict[str, dict[str, Any]]:
        groups: dict[str, list[ProblemRecord]] = {}
        for record in self.records:
            name = label(record)
            if name is not None:
                groups.setdefault(name, []).append(record)
        return {
            name: {"problems": len(groups[name]), **_estimates(groups[name], level=self.level)}
            for name in sorted(groups)
        }

    def save(self, stem: Path) -> Path:
        """Write `stem.jsonl` (a line a problem) and `stem.json` (settings, summary); returns the latter."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps(_without_nulls(asdict(r)), ensure_ascii=False, allow_nan=False) for r in self.records
        ]
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "records"}
        head = {"schema_version": SCHEMA_VERSION, **settings, "summary": self.summary}
        _write(stem.with_name(stem.name + ".jsonl"), "\n".join(lines) + "\n")
        return _write(stem.with_name(stem.name + ".json"), json.dumps(head, indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Read what `save` wrote; `path` is the stem or either file.

        Raises: FovealError, for a file that is missing, of another schema version or not an evaluation's.
        """
        stem = path.with_suffix("") if path.suffix in {".json", ".jsonl"} else path
        head_path, lines_path = stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".jsonl")
        for needed in (head_path, lines_path):
            if not needed.is_file():
                raise FovealError(
                    f"{needed} does not exist; an evaluation is the two files NAME.json and NAME.jsonl"
                )
        try:
            head = json.loads(head_path.read_text(encoding="utf-8"))
            if head.get("schema_version") != SCHEMA_VERSION:
                found = head.get("schema_version")
                raise FovealError(
                    f"{head_path} has schema_version {found!r}, this version reads {SCHEMA_VERSION}"
                )
            # Fields that were added later have defaults: files without them are read all the same.
            settings = {f.name: head[f.name] for f in fields(cls) if f.name in head and f.name != "records"}
            settings |= {name: head[name] for name in ("k", "greedy", "max_new_tokens")}
            lines = lines_path.read_text(encoding="utf-8").split("\n")
            return cls(records=tuple(_record(json.loads(line)) for line in lines if line), **settings)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FovealError(f"{stem}.json and .jsonl are not a saved evaluation: {error!r}") from error


def _estimate(records: Iterable[ProblemRecord], quantity: str, *, level: float) -> Estimate | None:
    read = QUANTITIES[quantity]
    found = [(value, cluster_of(record)) for record in records if (value := read(record)) is not None]
    if not found:
        return None
    values, clusters = zip(*found, strict=True)
    return stats.mean(values, key=(quantity,), clusters=clusters, bounds=stats.FRACTION, level=level)


def cluster_of(record: ProblemRecord) -> tuple[str, str]:
    """What is resampled as one unit: the versions of a question, or the problem itself."""
    return ("problem", record.id) if record.cluster is None else ("cluster", record.cluster)


def _estimates(records: Sequence[ProblemRecord], *, level: float) -> dict[str, Any]:
    found = {quantity: _estimate(records, quantity, level=level) for quantity in QUANTITIES}
    return {name: None if estimate is None else estimate.to_json() for name, estimate in found.items()}


def _record(data: Mapping[str, Any]) -> ProblemRecord:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return ProblemRecord(**values)


def _without_nulls(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in data.items() if v is not None}


def _graded_share(values: Sequence[bool], failed: Sequence[bool] | None) -> float | None:
    graded = [v for v, lost in zip(values, failed or [False] * len(values), strict=True) if not lost]
    return _share(graded) if graded else None


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _write(path: Path, text: str) -> Path:
    """Write beside and rename: a reader never sees half a file."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path
