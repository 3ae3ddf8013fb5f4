"""Evaluate an engine on problems: draw, grade, judge, and ask again with the pictures of another problem."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from foveal.data.problems import FileProblems
from foveal.data.selection import Selected
from foveal.evaluation.records import Evaluation, ProblemRecord
from foveal.keys import Key, generator
from foveal.spec import FovealError
from foveal.types import Completion, Group, Problem, RolloutEngine, Sampling

TRIES = 64
"""Random candidates for a donor before all problems are searched in order."""

FORMAT_REWARD = "format"
"""Name of the reward in `Group.breakdown` that says whether a completion has the right form."""


CLUSTER_KEYS = ("cluster", "problem_index")
"""Columns that give versions of one question one label; the second is MathVerse's."""


class Grader(Protocol):
    """Grades completions in order; `foveal.rewards.grading.Grader` is one."""

    def grade_many(self, pairs: list[tuple[Problem, tuple[Completion, ...]]]) -> list[Group]:
        """One group for each problem with its completions."""
        ...


class Verdict(Protocol):
    """What a judge says of a completion; `kind` is one of `foveal.diagnosis.errors.KINDS`."""

    @property
    def kind(self) -> str:
        """Where the completion goes wrong, or "correct"."""
        ...


Judge = Callable[[Problem, str], Verdict]
"""Reads a completion against the known scene."""

OtherPicture = Callable[[Problem, Sequence[Problem]], Problem | None]
"""The problem with the pictures of one of the donors; None where no donor fits."""

Progress = Callable[[int, int], None]
"""Told after each batch: problems done, problems in all."""


def evaluate(
    engine: RolloutEngine,
    problems: Sequence[Problem],
    *,
    grader: Grader,
    k: int = 1,
    greedy: bool = True,
    temperature: float = 1.0,
    max_new_tokens: int,
    batch_size: int = 32,
    key: Key,
    other_picture: bool | OtherPicture = True,
    judge: Judge | None = None,
    progress: Progress | None = None,
    name: str = "",
    method: str = "",
    seed: int | None = None,
    model: str = "",
    data: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Accuracy over `problems`: greedy (k = 1), or avg@k with k completions drawn at `temperature`.

    With `other_picture` each question is asked a second time over pictures of a problem with another answer:
    a policy that does not look scores the same both times. `True` picks donors with as many pictures by
    `swap_pictures`; worlds pass their own function, which also keeps family and size. `judge` adds the kind
    of error of each completion. `model` and `data` say in the file what was evaluated.

    Raises: FovealError for no problems, or k > 1 with `greedy`.
    """
    sampling = _sampling(
        len(problems), k=k, greedy=greedy, temperature=temperature, max_new_tokens=max_new_tokens
    )
    records: list[ProblemRecord] = []
    for start in range(0, len(problems), batch_size):
        batch = [problems[i] for i in range(start, min(start + batch_size, len(problems)))]
        drawn = engine.generate(batch, sampling=sampling, key=(*key, "evaluate"))
        groups = grader.grade_many(list(zip(batch, drawn, strict=True)))
        swapped = _swapped(batch, problems, other_picture=other_picture, key=key)
        blind = _grade_swapped(engine, swapped, grader=grader, sampling=sampling, key=key)
        records += [_record(g, judge=judge, other=blind.get(i)) for i, g in enumerate(groups)]
        if progress is not None:
            progress(len(records), len(problems))
    return Evaluation(
        records=tuple(records),
        k=k,
        greedy=greedy,
        max_new_tokens=max_new_tokens,
        name=name,
        method=method,
        seed=seed,
        model=model,
        data=data or {},
    )


def swap_pictures(problem: Problem, donors: Sequence[Problem], *, key: Key) -> Problem | None:
    """`problem` over the pictures of a donor chosen by `key`, in its own sizes; None where no donor fits.

    A donor has another answer and as many pictures. Where answers come from a small set, requiring another
    answer pushes a blind policy's accuracy below that of guessing, never above it.
    """
    if not problem.images:
        return None
    rng = generator("other picture", *key, problem.id)
    tried = rng.integers(0, len(donors), size=min(TRIES, len(donors))).tolist()
    for index in [*tried, *range(len(donors))]:
        answer, pictures = _outline(donors, index)
        if pictures == len(problem.images) and _plain(answer) != _plain(problem.answer):
            pairs = zip(problem.images, donors[index].images, strict=True)
            images = tuple(
                theirs if theirs.size == own.size else theirs.resize(own.size) for own, theirs in pairs
            )
            return replace(problem, images=images)
    return None


def _outline(donors: Sequence[Problem], index: int) -> tuple[str, int]:
    """Answer and number of pictures; those of a file are not decoded for it."""
    if isinstance(donors, FileProblems | Selected):
        donor = donors.text(index)
        return donor.answer, donor.marks
    donor = donors[index]
    return donor.answer, len(donor.images)


def _sampling(problems: int, *, k: int, greedy: bool, temperature: float, max_new_tokens: int) -> Sampling:
    if problems == 0:
        raise FovealError("there are no problems to evaluate; check the data file and its filters")
    if k < 1 or (greedy and k != 1):
        raise FovealError(
            f"k = {k} with greedy = {greedy}: greedy draws the same completion k times; use k = 1 or sample"
        )
    if not greedy and temperature <= 0:
        raise FovealError(
            f"temperature = {temperature} is greedy; set greedy = true with k = 1, or a temperature above 0"
        )
    return Sampling(group_size=k, max_new_tokens=max_new_tokens, temperature=0.0 if greedy else temperature)


def _swapped(
    batch: Sequence[Problem], donors: Sequence[Problem], *, other_picture: bool | OtherPicture, key: Key
) -> dict[int, Problem]:
    """By place in the batch, the problems that found other pictures."""
    if other_picture is False:
        return {}
    if other_picture is True:
        found = [swap_pictures(problem, donors, key=key) for problem in batch]
    else:
        found = [other_picture(problem, donors) for problem in batch]
    return {i: problem for i, problem in enumerate(found) if problem is not None}


def _grade_swapped(
    engine: RolloutEngine, swapped: dict[int, Problem], *, grader: Grader, sampling: Sampling, key: Key
) -> dict[int, Group]:
    if not swapped:
        return {}
    asked = list(swapped.values())
    drawn = engine.generate(asked, sampling=sampling, key=(*key, "other picture"))
    return dict(zip(swapped, grader.grade_many(list(zip(asked, drawn, strict=True))), strict=True))


def _record(group: Group, *, judge: Judge | None, other: Group | None) -> ProblemRecord:
    problem, completions = group.problem, group.completions
    kinds = tuple(judge(problem, c.text).kind for c in completions) if judge is not None else None
    return ProblemRecord(
        id=problem.id,
        answer=problem.answer,
        correct=tuple(bool(c) for c in group.correct),
        texts=tuple(c.text for c in completions),
        lengths=tuple(len(c.token_ids) for c in completions),
        truncated=tuple(c.finish == "length" for c in completions),
        kinds=kinds,
        format=_format(group, kinds),
        correct_other_picture=None if other is None else tuple(bool(c) for c in other.correct),
        failed=_failed(group),
        failed_other_picture=None if other is None else _failed(other),
        family=_text(problem.meta.get("family")),
        grade=_text(problem.meta.get("grade")),
        template=_text(problem.meta.get("template")),
        cluster=_text(next((problem.meta[key] for key in CLUSTER_KEYS if key in problem.meta), None)),
    )


def _failed(group: Group) -> tuple[bool, ...] | None:
    """The completions whose accuracy reward failed; None without any."""
    return tuple(n in group.failed for n in range(len(group.completions))) if group.failed else None


def _format(group: Group, kinds: tuple[str, ...] | None) -> tuple[bool, ...] | None:
    """From the format reward where there is one, else from the judge."""
    if FORMAT_REWARD in group.breakdown:
        return tuple(value is not None and value > 0 for value in group.breakdown[FORMAT_REWARD])
    return None if kinds is None else tuple(kind != "format" for kind in kinds)


def _plain(answer: str) -> str:
    return " ".join(answer.split()).casefold()


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
