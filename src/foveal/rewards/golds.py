"""Grades true answers against themselves: a run whose truths its rewards cannot read learns nothing."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from foveal.keys import generator
from foveal.rewards.base import Declared, Threaded
from foveal.rewards.grading import Grader, Settles
from foveal.rewards.session import LATE
from foveal.spec import ConfigError, FovealError
from foveal.types import Completion, Problem, Reward

SHOWN = 5
"""True answers that are listed."""

LONGEST = 80
"""Letters of a true answer that are shown."""

BUDGET_S = 30.0
"""Seconds for all; true answers that are not graded by then do not count as checked."""

WITH_PICTURES = 32
"""Problems that are held at once with their pictures."""

GOLD = Declared.model_fields["gold"].default
"""How a right completion reads for a reward that does not say it."""


@dataclass(frozen=True, kw_only=True)
class BadGold:
    """A true answer that no accuracy reward takes for right."""

    id: str
    gold: str
    values: dict[str, float | None]
    """By accuracy reward; None where it gives no value or fails."""
    why: str = ""

    @property
    def gradable(self) -> bool:
        """Whether a reward gives it a value at all."""
        return any(value is not None for value in self.values.values())


@dataclass(frozen=True, kw_only=True)
class GoldReport:
    """What the accuracy rewards make of true answers."""

    rewards: tuple[str, ...]
    """Names of those that were asked; none where all are judges, which cost money."""
    own: bool
    """All are this library's: each is sure to know how a right completion reads."""
    functions: bool = False
    """All are functions of somebody's own, which may fail on a text that no model would write."""
    checked: int
    late: int
    """True answers that there was no time for."""
    bad: tuple[BadGold, ...]

    @property
    def right(self) -> int:
        """True answers that an accuracy reward gives 1.0."""
        return self.checked - len(self.bad)

    @property
    def ungradable(self) -> int:
        """True answers of which every accuracy reward says None, or fails."""
        return sum(not bad.gradable for bad in self.bad)

    def lines(self) -> list[str]:
        """What to tell: nothing where all are right."""
        asked = ", ".join(self.rewards)
        found = []
        if self.late:
            found += [
                f"{self.late} golds were not graded within {BUDGET_S:g} s ({asked}), and are not checked"
            ]
        if not self.bad:
            return found
        found += [
            f"{len(self.bad)} of the {self.checked} golds checked are not 1.0 by their own reward ({asked}); "
            f"{self.ungradable} of them cannot be graded at all"
        ]
        found += [f"  {_row(bad)}" for bad in self.bad[:SHOWN]]
        more = len(self.bad) - SHOWN
        found += [f"  and {more} more"] if more > 0 else []
        if self._all_fail:
            found += [
                f"{asked} fails on each of them; the run goes on, and stops where it fails on more of the "
                f"completions than grading.stop_above; `gold` of the reward says how a right "
                f"completion reads"
            ]
        return found

    @property
    def _all_fail(self) -> bool:
        """Whether functions raise, or pass a limit, on every true answer."""
        return self.functions and self.checked == len(self.bad) and all(bad.why for bad in self.bad)

    def require(self) -> None:
        """Raises: ConfigError, when no true answer can be graded: nothing could be learnt.

        Functions that fail on all of them only give a warning (`lines`): they may work on completions, and
        failures there are counted.
        """
        hopeless = self.right == 0 if self.own else self.ungradable == self.checked
        if not self.checked or not hopeless or self._all_fail:
            return
        shown = "; ".join(_row(bad) for bad in self.bad[:SHOWN])
        raise ConfigError(
            f"none of the {self.checked} golds can be graded by {', '.join(self.rewards)}: {shown}; choose a "
            f"reward that reads such answers ([[rewards]] type), name the column of the true answer "
            f"(data.answer_column), or set grading.check_golds = 0 to train all the same"
        )


def check_golds(
    grader: Grader,
    problems: Sequence[Problem],
    *,
    sample: int = 1000,
    judges: bool = False,
    budget_s: float = BUDGET_S,
) -> GoldReport:
    """Grade a sample of the true answers, each stated as a right completion would state it.

    A reward that knows better how that reads says so in a method or field `gold`; judges are left out unless
    asked for. The problems of a file are read without their pictures, unless a reward gets those.
    """
    asked = [index for index in _accuracies(grader) if judges or not _costs(grader.rewards[index])]
    rewards = [grader.rewards[index] for index in asked]
    chosen = _sample(len(problems), sample) if asked else []
    look = any(_sees_pictures(reward) for reward in rewards)
    end = time.monotonic() + min(budget_s, grader.settings.step_budget_s)
    at_once = WITH_PICTURES if look else max(1, len(chosen))
    checked, bad = 0, list[BadGold]()
    for start in range(0, len(chosen), at_once):
        left = end - time.monotonic()
        if start and left <= 0:
            break
        rows = [_row_of(problems, index, look=look) for index in chosen[start : start + at_once]]
        number, some = _graded(grader, asked, rows, budget_s=max(0.0, left))
        checked, bad = checked + number, bad + some
    return GoldReport(
        rewards=tuple(grader.names[index] for index in asked),
        own=all(_is_own(reward) for reward in rewards),
        functions=all(isinstance(reward, Declared) for reward in rewards),
        checked=checked,
        late=len(chosen) - checked,
        bad=tuple(bad),
    )


def _graded(
    grader: Grader, asked: Sequence[int], rows: Sequence[Problem], *, budget_s: float
) -> tuple[int, list[BadGold]]:
    """How many true answers were graded in time, and those that are not right."""
    stated = [[_statement(grader.rewards[index], row) for index in asked] for row in rows]
    grading = grader.begin(only=asked, quiet=True)
    for place, (row, texts) in enumerate(zip(rows, stated, strict=True)):
        grading.submit(place, row, [_completion(text) for text in dict.fromkeys(texts)])
    checked, bad = 0, list[BadGold]()
    for group, texts in zip(grading.finish(budget_s=budget_s), stated, strict=True):
        if any(reason.endswith(LATE) for reason in group.excluded.values()):
            continue
        checked += 1
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        values = {
            grader.names[index]: group.breakdown[grader.names[index]][places[text]]
            for index, text in zip(asked, texts, strict=True)
        }
        if not any(value is not None and value >= 1.0 for value in values.values()):
            why = next(iter(group.excluded.values()), "")
            bad.append(BadGold(id=group.problem.id, gold=group.problem.answer, values=values, why=why))
    return checked, bad


def _accuracies(grader: Grader) -> list[int]:
    """Rewards that say of themselves whether an answer is right; the one that decides what is correct where
    none does."""
    declared = [
        index
        for index, reward in enumerate(grader.rewards)
        if reward.is_accuracy or (isinstance(reward, Declared) and reward.accuracy)
    ]
    return declared or [grader.accuracy]


def _costs(reward: Reward) -> bool:
    return isinstance(reward, Threaded) and reward.costs


def _is_own(reward: Reward) -> bool:
    """Whether it is this library's, of which it is known how a right completion reads."""
    return type(reward).__module__.startswith("foveal.") and not isinstance(reward, Declared)


def _statement(reward: Reward, row: Problem) -> str:
    """A completion that states the true answer."""
    gold = getattr(reward, "gold", GOLD)
    if callable(gold):
        return str(gold(row))
    return str(gold).replace("{answer}", row.answer)


def _completion(text: str) -> Completion:
    return Completion(token_ids=(), sampled_logprobs=(), text=text, finish="stop")


def _sample(size: int, most: int) -> list[int]:
    """Rows that are checked: all, or so many of them, the same each time."""
    if size <= most:
        return list(range(size))
    chosen = generator("golds", size).choice(size, size=most, replace=False)
    return sorted(int(index) for index in chosen)


def _sees_pictures(reward: Reward) -> bool:
    """Whether code that is not this library's gets the pictures of a problem, as in training."""
    if reward.needs_images or (isinstance(reward, Declared) and reward.send_images):
        return True
    if isinstance(reward, Threaded):
        return not reward.costs
    return isinstance(reward, Settles) and not _is_own(reward)


def _row_of(problems: Sequence[Problem], index: int, *, look: bool) -> Problem:
    """A row; without its pictures where nobody looks at them, or where they cannot be read."""
    text = getattr(problems, "text", None)
    if look or text is None:
        try:
            return problems[index]
        except FovealError:
            if text is None:
                raise
    found: Problem = text(index)
    return found


def _row(bad: BadGold) -> str:
    shown = bad.gold if len(bad.gold) <= LONGEST else f"{bad.gold[:LONGEST]}..."
    values = ", ".join(f"{name} {value}" for name, value in bad.values.items())
    return f"{bad.id!r}: {shown!r} -> {values}" + (f" ({bad.why})" if bad.why else "")
