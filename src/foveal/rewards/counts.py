"""How many values were asked for, and what became of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from foveal.rewards.tasks import Outcome


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Values of each reward, in the order of the rewards."""

    values: tuple[int, ...]
    """Asked for."""
    failures: tuple[int, ...]
    """Lost to an exception, a crash, a wrong type or a server."""
    timeouts: tuple[int, ...]
    """Lost to a limit of time."""
    retries: tuple[int, ...]
    """Further attempts."""

    def __sub__(self, before: "Counts") -> "Counts":
        """What was added since."""
        return Counts(
            values=_less(self.values, before.values),
            failures=_less(self.failures, before.failures),
            timeouts=_less(self.timeouts, before.timeouts),
            retries=_less(self.retries, before.retries),
        )

    def lost_share(self, reward: int) -> float:
        """Share of a reward's values that were lost."""
        lost = self.failures[reward] + self.timeouts[reward]
        return lost / self.values[reward] if self.values[reward] else 0.0


@dataclass(kw_only=True)
class Counter:
    """Counts that grow."""

    size: int
    values: list[int] = field(init=False)
    failures: list[int] = field(init=False)
    timeouts: list[int] = field(init=False)
    retries: list[int] = field(init=False)
    examples: dict[int, str] = field(default_factory=dict)
    """What was said of a value that was lost, the latest of each reward."""

    def __post_init__(self) -> None:
        self.values, self.failures = [0] * self.size, [0] * self.size
        self.timeouts, self.retries = [0] * self.size, [0] * self.size

    def add(self, count: int, rewards: Iterable[int]) -> None:
        """So many values of each of these rewards were asked for."""
        for reward in rewards:
            self.values[reward] += count

    def fail(self, reward: int, outcome: Outcome) -> None:
        """A value was lost."""
        (self.timeouts if outcome.kind == "timeout" else self.failures)[reward] += 1
        self.examples[reward] = outcome.message

    def now(self) -> Counts:
        """As they are."""
        return Counts(
            values=tuple(self.values),
            failures=tuple(self.failures),
            timeouts=tuple(self.timeouts),
            retries=tuple(self.retries),
        )


def _less(after: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    return tuple(a - b for a, b in zip(after, before, strict=True))
