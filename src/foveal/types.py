"""Carriers and protocols that the modules share. Nothing here computes.

Axes: N groups (problems), G group size, B = N * G completions, T completion tokens (padded on the right), P
prompt tokens, K chosen tokens, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from foveal.instances import Told
from foveal.keys import Key
from foveal.problem import IMAGE_MARK as IMAGE_MARK
from foveal.problem import Problem as Problem
from foveal.problem import Turn as Turn
from foveal.spec import Component
from foveal.tokens import Aggregation as Aggregation
from foveal.tokens import Count as Count
from foveal.tokens import Term as Term
from foveal.tokens import TokenStats as TokenStats
from foveal.views import Perturbation as Perturbation
from foveal.views import PerturbationContext as PerturbationContext
from foveal.views import SaliencySource as SaliencySource

ViewName = str
"""The pictures of a problem as the policy sees them: "clean" always; "removed", "preserved", ... as
configured.
"""

CLEAN: ViewName = "clean"
REMOVED: ViewName = "removed"
PRESERVED: ViewName = "preserved"

Span = tuple[int, int]
"""A part of a text: its first character, and the one behind its last."""
Finished = Callable[[int, tuple["Completion", ...]], None]
"""Told the place of a problem and its completions."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sampled continuation of a prompt; `token_ids` ends with the end token when `finish` is "stop"."""

    token_ids: tuple[int, ...]
    sampled_logprobs: tuple[float, ...]
    text: str
    finish: Literal["stop", "length"]
    policy_version: int = 0
    view: ViewName = CLEAN
    sampled_entropies: tuple[float, ...] | None = None
    """Entropy of the distribution that each token was drawn from, nats; None where it was not recorded."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The G graded completions of one problem. `breakdown` has one list of G values for each reward by
    name, `segments` one list of G character spans (or None) for each reward that marks a part of a
    completion. `excluded`: completions by place that take no part in the group's statistics nor in the loss,
    and why; `failed`: those whose accuracy reward failed, so that `correct` means nothing there.
    """

    problem: Problem
    completions: tuple[Completion, ...]
    rewards: tuple[float, ...]
    correct: tuple[bool, ...]
    breakdown: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    segments: Mapping[str, tuple["Span | None", ...]] = field(default_factory=dict)
    excluded: Mapping[int, str] = field(default_factory=dict)
    failed: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A problem as the model reads it: picture placeholders already expanded to one token a visual token.

    `position_ids` has the family's position rows (3 for M-RoPE); `next_position` is the position of the first
    completion token. `grids` (images, 3): patches in time, height, width of each picture.
    """

    problem_id: str
    token_ids: Int[Tensor, "P"]
    position_ids: Int[Tensor, "rows P"]
    next_position: int
    image_mask: Bool[Tensor, "P"]
    grids: Int[Tensor, "images 3"]


@dataclass(frozen=True, kw_only=True)
class VisionInputs:
    """The pictures of one view, one entry a prompt: all patches of its pictures, stacked."""

    pixels: tuple[Float[Tensor, "patches features"], ...]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Finished groups as tensors. `prompt_index[b]` is the prompt of completion b; every group's rows are
    adjacent.
    """

    prompts: tuple[Prompt, ...]
    prompt_index: Int[Tensor, "B"]
    completion_ids: Int[Tensor, "B T"]
    completion_mask: Bool[Tensor, "B T"]
    sampled_logprobs: Float[Tensor, "B T"]
    rewards: Float[Tensor, "B"]
    correct: Bool[Tensor, "B"]
    lengths: Int[Tensor, "B"]
    """Tokens of each completion, dropped ones included: a token that is not finite leaves the mask, not the
    sequence.
    """
    truncated: Bool[Tensor, "B"]
    """The completion ended at the length limit."""
    vision: Mapping[ViewName, VisionInputs]
    sampled_elsewhere: Bool[Tensor, "B"] | None = None
    """Completions sampled under another view than the clean one: their recorded log-probabilities are not the
    old policy's. None when there are none.
    """
    sampled_entropies: Float[Tensor, "B T"] | None = None
    """Entropies as recorded when sampling, NaN in completions without; None when no completion has them."""
    breakdown: Mapping[str, Float[Tensor, "B"]] = field(default_factory=dict)
    """The value of each reward by name, before its weight; NaN where it could not be graded."""
    segments: Mapping[str, Bool[Tensor, "B T"]] = field(default_factory=dict)
    """For each reward that marks a part of a completion, the tokens of that part; no token where it marks
    none."""
    nonfinite_count: int = 0
    """Tokens left out of `completion_mask` because their recorded log-probability was not finite."""

    def to(self, device: torch.device) -> "Inputs":
        """The same on a device; prompts and pictures follow when a forward needs them."""
        names = (
            *("prompt_index", "completion_ids", "completion_mask", "sampled_logprobs"),
            *("rewards", "correct", "lengths", "truncated", "sampled_elsewhere", "sampled_entropies"),
        )
        found = {name: getattr(self, name) for name in names}
        return replace(
            self,
            **{name: v.to(device) for name, v in found.items() if v is not None},
            breakdown={name: values.to(device) for name, values in self.breakdown.items()},
            segments={name: mask.to(device) for name, mask in self.segments.items()},
        )


@dataclass(frozen=True, kw_only=True)
class ViewScores:
    """Log-probabilities and full-vocabulary entropy (nats) under one view, without gradient; NaN in rows that
    were not scored (`Objective.score_rows`).
    """

    logprobs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
    rows: Bool[Tensor, "B"] | None = None
    """The completions that were scored; None is all."""

    def take(self, rows: Int[Tensor, "K"]) -> "ViewScores":
        """The scores of some completions."""
        return ViewScores(
            logprobs=self.logprobs[rows],
            entropy=self.entropy[rows],
            rows=None if self.rows is None else self.rows[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is known of the completions before the first backward; never carries gradient. `views` may hold
    more than `Objective.score_views`: the clean one where old log-probabilities were scored.
    """

    old_logprobs: Float[Tensor, "B T"]
    ref_logprobs: Float[Tensor, "B T"] | None
    views: Mapping[ViewName, ViewScores]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs with scores and advantages. `selections` and `weights` are what `Objective.prepare` chose, by
    term name.
    """

    inputs: Inputs
    scores: Scores
    advantages: Float[Tensor, "B T"]
    selections: Mapping[str, Bool[Tensor, "B T"]] = field(default_factory=dict)
    weights: Mapping[str, Float[Tensor, "B T"]] = field(default_factory=dict)


class Objective(Component, metaclass=Told):
    """What is optimised, as named per-token terms over views.

    Subclasses are one file each. They hold a base objective rather than inherit from it, and never reduce:
    the trainer turns terms into a number with the counts of `masks` over the whole mini-batch.
    """

    required: ClassVar[tuple[str, ...]] = ("advantages", "masks", "terms")

    aggregation: Aggregation = "token_mean"
    horizon: int | None = Field(default=None, ge=1)
    """Constant number of tokens that "sequence_sum" divides by. A run whose config leaves it out takes
    `sampling.max_new_tokens`; None by itself divides by 1.
    """

    @property
    def score_views(self) -> tuple[ViewName, ...]:
        """Views whose log-probabilities and entropies are needed before the first backward, without
        gradient.
        """
        return ()

    @property
    def update_views(self) -> tuple[ViewName, ...]:
        """Views that are run with gradient in the update."""
        return (CLEAN,)

    @property
    def views(self) -> tuple[ViewName, ...]:
        """All views that must be prepared, "clean" first."""
        return tuple(dict.fromkeys((CLEAN, *self.score_views, *self.update_views)))

    @property
    def uses_reference(self) -> bool:
        """Whether reference log-probabilities are needed."""
        return False

    @property
    def uses_distributions(self) -> bool:
        """Whether its terms or measures call `TokenStats.log_probs_at`: its views then run together, so that
        all distributions are there at once.
        """
        return False

    @property
    def chooses_in_update(self) -> bool:
        """Whether its terms choose tokens by comparing values of the running views: these are then never
        taken from another forward, whose rounding would choose other tokens where views agree.
        """
        return False

    @property
    def uses_rewards(self) -> tuple[str, ...]:
        """Names of the rewards whose values it reads from `Inputs.breakdown`, beside the sum of all."""
        return ()

    def at(self, step: int, *, steps: int) -> "Objective":
        """The objective with the coefficients in force after `step` finished steps of `steps`; itself where
        nothing is scheduled.
        """
        return self

    def within(self, limit: int) -> "Objective":
        """The objective for completions of at most `limit` tokens: "sequence_sum" divides by it where
        `horizon` is not set, so that the gradient's scale does not grow with the length of completions.
        """
        if self.aggregation != "sequence_sum" or self.horizon is not None:
            return self
        return self.model_copy(update={"horizon": limit})

    def scaled(self, factor: float) -> "Objective":
        """The objective with the weight of what it pays for looking times `factor`; itself without such
        terms. What holds such terms in check (entropy terms, reference KL) stays.
        """
        return self

    def sample_views(self, step: int, *, steps: int) -> Mapping[ViewName, float]:
        """The share of each group's completions to be sampled under each view; shares add up to 1."""
        return {CLEAN: 1.0}

    def keeps(self, group: Group) -> bool:
        """Whether a graded group enters the batch (dynamic sampling refills what is dropped)."""
        return True

    def advantages(self, inputs: Inputs) -> Float[Tensor, "B T"]:
        """Per-token advantages of the whole batch; zero outside the completion mask."""
        raise NotImplementedError

    def prepare(self, batch: Batch) -> Batch:
        """Choose tokens and weights once a step, from the scores, before the first backward."""
        return batch

    def score_rows(self, view: ViewName, inputs: Inputs) -> Bool[Tensor, "B"]:
        """Completions whose `view` must be scored before the update; all by default. Scores of others are
        NaN.
        """
        return inputs.completion_mask.any(-1)

    def rows(self, view: ViewName, batch: Batch) -> Bool[Tensor, "B"]:
        """Completions whose `view` must be run in the update; all by default."""
        return batch.inputs.completion_mask.any(-1)

    def masks(self, batch: Batch) -> Mapping[str, Bool[Tensor, "B T"]]:
        """For each term by name, the tokens it is averaged over; known before the first backward."""
        raise NotImplementedError

    def needed(self, batch: Batch) -> Bool[Tensor, "B"]:
        """Completions that the update has to run: without the others no term and no gradient would change.

        By default those that are in any mask; a method whose term is exactly 0 on some of them says less.
        """
        rows = torch.zeros_like(batch.inputs.completion_mask[:, :1]).any(-1)
        for mask in self.masks(batch).values():
            rows = rows | mask.any(-1)
        return rows

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """The terms of the loss on these rows; each mask equals that of `masks`."""
        raise NotImplementedError

    def measures(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        """What is logged beside the terms (clip fraction, ...); `coef` is ignored and no gradient is kept. Of
        several of one name, from methods that hold one another, the first is logged.
        """
        return []


class Reward(Component, metaclass=Told):
    """A number for a completion; None when it cannot be graded. Most rewards lie in [0, 1], shaping may be
    negative.
    """

    required: ClassVar[tuple[str, ...]] = ("__call__",)
    is_accuracy: ClassVar[bool] = False
    """Whether 1.0 means that the answer is right; the first such reward of a run decides `Group.correct`."""
    needs_network: ClassVar[bool] = False
    """Whether it opens connections: grading workers are cut off from the network unless a reward says so."""
    environment: ClassVar[tuple[str, ...]] = ()
    """Names of environment variables that it reads, "*" for all: workers start without the others."""
    needs_images: ClassVar[bool] = False
    """Whether it gets the problem with its pictures."""

    weight: float = 1.0
    """Factor in the sum of rewards."""

    def __call__(self, problem: Problem, text: str) -> float | None:
        """The reward before weighting."""
        raise NotImplementedError

    def segment(self, problem: Problem, text: str) -> Span | None:
        """The part of the completion that the reward is about; None, as by default, when it marks none.

        Called in the trainer's process without a limit of time, unlike the reward itself.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn. `temperature` 0 means greedy."""

    group_size: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    min_new_tokens: int = 0
    entropies: bool = False
    """Record the entropy of each token's distribution too, where the engine can."""
    row_tokens: int = 16384
    """Prompt tokens that are run in one row, visual ones counted, unless a single prompt has more."""
    hold_tokens: int = 0
    """Hold the graph of the prompts for the update of the same weights, where the engine can and prompts and
    completions together have at most so many tokens."""
    product_tokens: int = 0
    """As `hold_tokens`: keep the products of linear layers on completions."""


class RolloutEngine(Protocol):
    """Draws completions; the local sampler and servers look the same from outside."""

    def generate(
        self,
        problems: Sequence[Problem],
        *,
        sampling: Sampling,
        key: Key,
        view: ViewName = CLEAN,
        finished: "Finished | None" = None,
    ) -> list[tuple[Completion, ...]]:
        """`group_size` completions of each problem, in order. Noise is keyed by (*key, problem id,
        completion, position). `finished` may be told a problem's place and completions before the end."""
        ...

    def load_weights(self, weights: Mapping[str, Tensor], *, version: int) -> None:
        """Take new policy weights."""
        ...

    def health(self) -> str:
        """One line on the engine's state."""
        ...
