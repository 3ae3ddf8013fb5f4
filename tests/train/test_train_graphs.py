"""The update's views with their graphs together or one at a time: the same gradient, the same log."""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from foveal.config import load
from foveal.objectives.cppo import CPPO
from foveal.objectives.dvrp import DVRP
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.policy import Policy
from foveal.policy.forward import micro_batches
from foveal.spec import ConfigError, FovealError
from foveal.train.graphs import _Views, kept_for_update
from foveal.train.rows import mini_batch_rows, select
from foveal.train.settings import StepSettings
from foveal.train.step import prepare, score, train_step
from foveal.train.tally import Tally
from foveal.train.update import accumulate
from foveal.types import Batch, Group, Inputs, Objective, Sampling, Term, TokenStats, ViewName
from run_cases import world_table
from train_cases import SPLIT, WHOLE, distance, inputs_of, record, settings

CLEAN, REMOVED, PRESERVED = "clean", "removed", "preserved"
BASE = GRPO(aggregation="token_mean")
DEFAULT = CPPO(base=BASE, cpl_coef=0.5, tau=1.0)

OBJECTIVES: Mapping[str, Objective] = {
    "cppo": DEFAULT,
    "cppo, no gate": CPPO(base=BASE, cpl_coef=0.5, tau=1.0, gate=False),
    "cppo, AReaL variant": CPPO(
        base=BASE, cpl_coef=0.5, tau=1.0, divergence="k1", rounding="ceil", score="relative"
    ),
    "cppo, tokens chosen in the update": CPPO(base=BASE, cpl_coef=0.5, tau=1.0, select_in="update"),
    "papo, removed view with gradient": PAPO(
        base=BASE, kl_prcp_coef=0.1, removed_gradient=True, removed_entropy_coef=0.03, entropy_kind="full"
    ),
    "papo on chosen tokens": PAPO(
        base=BASE, kl_prcp_coef=0.1, removed_gradient=True, token_fraction=0.3, kl_prcp_clip=0.2
    ),
    "dvrp": DVRP(base=BASE, noised_view=PRESERVED),
    "cppo on papo": CPPO(
        base=PAPO(base=BASE, kl_prcp_coef=0.1, removed_gradient=True), cpl_coef=0.5, tau=1.0
    ),
}
FREE = ("cppo", "cppo, no gate", "cppo, AReaL variant", "papo, removed view with gradient")
"""All views but one are known when the update begins."""

Graphs = Literal["auto", "together", "apart"]
SAMPLED = replace(settings(), score_old=False)


@pytest.fixture(scope="module")
def double(policy: Policy) -> Policy:
    return copy.deepcopy(policy).double()


@pytest.fixture(scope="module")
def groups(policy: Policy) -> list[Group]:
    """One picture, none, two pictures: completions of 1 to 9 tokens, their entropies recorded."""
    one, two, none, *_ = record(policy, entropies=True)
    return [one, none, two]


@pytest.fixture(scope="module")
def inputs(policy: Policy, groups: list[Group]) -> Inputs:
    return inputs_of(policy, groups)


@dataclass
class Traffic:
    """Forwards with and without gradient, and the most graphs that were held at once."""

    forwards: list[tuple[ViewName, bool]] = field(default_factory=list)
    held: int = 0
    most: int = 0

    def count(self, view: ViewName) -> int:
        return [name for name, _ in self.forwards].count(view)


@contextmanager
def watched() -> Iterator[Traffic]:
    """Counts forwards; a graph is held from its forward to the end of the next backward."""
    traffic, run, go = Traffic(), Policy.forward, torch.autograd.backward

    def forward(self: Policy, given: Inputs, view: ViewName, **options: Any) -> TokenStats:
        found = run(self, given, view, **options)
        if found.logprobs.requires_grad:
            traffic.held += 1
            traffic.most = max(traffic.most, traffic.held)
        if options.get("rows") is None or bool(options["rows"].any()):
            traffic.forwards.append((view, found.logprobs.requires_grad))
        return found

    def backward(*given: Any, **options: Any) -> None:
        go(*given, **options)
        traffic.held = 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "forward", forward)
        patch.setattr(torch.autograd, "backward", backward)
        yield traffic


@dataclass
class Outcome:
    gradient: list[Tensor]
    tally: Tally
    traffic: Traffic


def update(
    policy: Policy, inputs: Inputs, objective: Objective, graphs: Graphs, how: StepSettings
) -> Outcome:
    """One mini-batch of everything, scored and with its gradient; forwards of the update are counted."""
    how = replace(how, view_graphs=graphs)
    batch = prepare(inputs, score(inputs, policy, None, objective, how), objective)
    policy.zero_grad(set_to_none=True)
    tally = Tally.of(inputs)
    (rows,) = mini_batch_rows(inputs, 1)
    with watched() as traffic:
        accumulate(policy, select(batch, rows), objective, how, tally=tally, rows=rows)
    gradient = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in policy.parameters()]
    return Outcome(gradient, tally, traffic)


def same_log(found: Tally, wanted: Tally, *, within: float) -> None:
    for part in ("losses", "sums", "tokens"):
        mine, theirs = getattr(found, part), getattr(wanted, part)
        assert mine == pytest.approx(theirs, abs=within), part
    for name in ("ratio_max", "parity_max"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), abs=within), name
    assert found.per_token.keys() == wanted.per_token.keys()
    for name, values in wanted.per_token.items():
        torch.testing.assert_close(found.per_token[name], values, atol=within, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "tokens"), [*((name, WHOLE) for name in OBJECTIVES), *((name, SPLIT) for name in FREE[::3])]
)
def test_one_graph_at_a_time_gives_the_gradient_and_the_log_of_all_together(
    name: str, tokens: int, double: Policy, inputs: Inputs
) -> None:
    objective, how = OBJECTIVES[name], settings(tokens=tokens)
    wanted = update(double, inputs, objective, "together", how)
    found = update(double, inputs, objective, "apart", how)
    assert wanted.traffic.most == len(objective.update_views) and found.traffic.most == 1
    assert distance(found.gradient, wanted.gradient) < 1e-13
    same_log(found.tally, wanted.tally, within=1e-13)
    if tokens == SPLIT:
        assert len(micro_batches(inputs, tokens=tokens)) > len(inputs.prompts)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_the_sampler_recorded_stands_for_the_clean_view_to_rounding(
    name: str, policy: Policy, inputs: Inputs
) -> None:
    objective = OBJECTIVES[name]
    wanted = update(policy, inputs, objective, "together", SAMPLED)
    found = update(policy, inputs, objective, "apart", SAMPLED)
    assert found.traffic.most == 1
    assert distance(found.gradient, wanted.gradient) < 1e-5
    same_log(found.tally, wanted.tally, within=1e-6)


@pytest.mark.parametrize(
    ("name", "old"), [*((name, "sampled") for name in OBJECTIVES), *((name, "scored") for name in FREE[::3])]
)
def test_auto_goes_apart_exactly_where_that_takes_no_forward_more(
    name: str, old: str, policy: Policy, inputs: Inputs
) -> None:
    objective, how = OBJECTIVES[name], replace(settings(), score_old=old == "scored")
    together = update(policy, inputs, objective, "together", how)
    auto = update(policy, inputs, objective, "auto", how)
    assert sorted(auto.traffic.forwards) == sorted(together.traffic.forwards)
    assert all(auto.traffic.count(view) == 1 for view in objective.update_views)
    assert auto.traffic.most == (1 if name in FREE else len(objective.update_views))
    forced = update(policy, inputs, objective, "apart", how).traffic
    extra = [view for view, gradient in forced.forwards if not gradient]
    assert len(extra) == {"cppo, tokens chosen in the update": 2, "papo on chosen tokens": 1}.get(
        name, 0 if name in FREE else 1
    )


@pytest.mark.parametrize(("average_over", "checkpointing"), [("micro_batch", False), ("mini_batch", True)])
def test_averages_of_micro_batches_and_gradient_checkpointing_change_nothing_of_it(
    average_over: Literal["mini_batch", "micro_batch"], checkpointing: bool, double: Policy, inputs: Inputs
) -> None:
    how = replace(settings(tokens=SPLIT), average_over=average_over)
    wanted = update(double, inputs, DEFAULT, "together", how)
    running = copy.deepcopy(double)
    if checkpointing:
        model: Any = running.model
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    found = update(running, inputs, DEFAULT, "auto", how)
    assert found.traffic.most == 1
    assert distance(found.gradient, wanted.gradient) < 1e-13


def test_prompts_without_a_picture_go_apart_too(double: Policy, groups: list[Group]) -> None:
    blind = inputs_of(double, [groups[1]])
    wanted = update(double, blind, DEFAULT, "together", settings())
    # Tokens are chosen by a rise in entropy, and without a picture nothing rises.
    assert [view for view, _ in wanted.traffic.forwards] == [CLEAN]
    dvrp = OBJECTIVES["dvrp"]
    wanted = update(double, blind, dvrp, "together", settings())
    found = update(double, blind, dvrp, "apart", settings())
    assert found.traffic.most == 1 and distance(found.gradient, wanted.gradient) < 1e-13


def test_completions_of_another_view_are_known_once_they_are_scored(policy: Policy, inputs: Inputs) -> None:
    elsewhere = torch.zeros_like(inputs.correct)
    elsewhere[::3] = True
    assert inputs.sampled_entropies is not None
    off = 0.7 * elsewhere.unsqueeze(-1)
    mixed = replace(
        inputs,
        sampled_elsewhere=elsewhere,
        sampled_logprobs=inputs.sampled_logprobs - off,
        sampled_entropies=inputs.sampled_entropies + off,
    )
    wanted = update(policy, mixed, DEFAULT, "together", SAMPLED)
    found = update(policy, mixed, DEFAULT, "auto", SAMPLED)
    assert found.traffic.most == 1 and distance(found.gradient, wanted.gradient) < 1e-5
    # A hole in what was recorded makes the view unknown, in these micro-batches alone.
    holed = inputs.sampled_entropies.clone()
    holed[inputs.prompt_index == 1] = torch.nan
    papo = OBJECTIVES["papo, removed view with gradient"]
    found = update(policy, replace(inputs, sampled_entropies=holed), papo, "auto", SAMPLED)
    assert found.traffic.most == 2
    group = len(inputs.prompts[0].token_ids) + int(inputs.lengths[:4].sum())
    split = replace(SAMPLED, micro_batch_tokens=group)
    parts = micro_batches(inputs, tokens=group)
    found = update(policy, replace(inputs, sampled_entropies=holed), papo, "auto", split)
    assert found.traffic.most == 2 and len(found.traffic.forwards) == 2 * len(parts)


def test_after_the_first_update_nothing_is_known_any_more(policy: Policy, inputs: Inputs) -> None:
    moving = copy.deepcopy(policy)
    optimizer = torch.optim.SGD(moving.parameters(), lr=0.1)
    how = replace(SAMPLED, mini_batches=2)
    with watched() as traffic:
        train_step(moving, None, optimizer, inputs, DEFAULT, how)
    trained = [view for view, gradient in traffic.forwards if gradient]
    assert trained == [PRESERVED, CLEAN, REMOVED, CLEAN, PRESERVED, REMOVED]
    assert traffic.most == 3
    moving = copy.deepcopy(policy)
    optimizer = torch.optim.SGD(moving.parameters(), lr=0.1)
    with watched() as traffic:
        train_step(moving, None, optimizer, inputs, DEFAULT, replace(how, view_graphs="apart"))
    assert traffic.most == 1


@pytest.mark.parametrize("graphs", ["auto", "together"])
def test_a_value_that_the_sampler_got_wrong_is_seen_in_the_log(
    graphs: Graphs, policy: Policy, inputs: Inputs
) -> None:
    wrong = inputs.sampled_logprobs.clone()
    wrong[1, 0] -= 0.25
    tally = update(policy, replace(inputs, sampled_logprobs=wrong), DEFAULT, graphs, SAMPLED).tally
    assert tally.parity_max == pytest.approx(0.25, abs=1e-4)
    assert tally.ratio_max == pytest.approx(2.718281828**0.25, abs=1e-4)


@pytest.mark.parametrize("view", [CLEAN, REMOVED, PRESERVED])
def test_a_forward_that_is_not_finite_is_not_hidden_by_what_was_known(
    view: ViewName, policy: Policy, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Policy.forward

    def broken(self: Policy, given: Inputs, name: ViewName, **options: Any) -> TokenStats:
        found = run(self, given, name, **options)
        if name != view or not torch.is_grad_enabled():
            return found
        return replace(found, logprobs=found.logprobs * torch.nan)

    monkeypatch.setattr(Policy, "forward", broken)
    moving = copy.deepcopy(policy)
    optimizer = torch.optim.SGD(moving.parameters(), lr=0.1)
    metrics = train_step(moving, None, optimizer, inputs, DEFAULT, SAMPLED).metrics
    assert metrics["policy/skipped_count"] == 1 and metrics["loss/total"] != metrics["loss/total"]
    assert all(p.equal(q) for p, q in zip(moving.parameters(), policy.parameters(), strict=True))


class Partly(GRPO):
    """Runs three views and takes a gradient of one."""

    taken: ViewName = CLEAN

    @property
    def score_views(self) -> tuple[ViewName, ...]:
        return (CLEAN, REMOVED)

    @property
    def update_views(self) -> tuple[ViewName, ...]:
        return (CLEAN, REMOVED, PRESERVED)

    def terms(self, batch: Batch, now: Mapping[ViewName, TokenStats]) -> list[Term]:
        return super().terms(batch, {CLEAN: now[self.taken]})


def test_a_view_without_gradient_is_not_run_again_but_the_clean_one_is_looked_at(
    policy: Policy, inputs: Inputs
) -> None:
    found = update(policy, inputs, Partly(), "auto", SAMPLED)
    assert found.traffic.forwards == [(PRESERVED, True), (CLEAN, True)]
    wanted = update(policy, inputs, Partly(), "together", SAMPLED)
    assert distance(found.gradient, wanted.gradient) < 1e-5
    found = update(policy, inputs, Partly(taken=PRESERVED), "auto", SAMPLED)
    assert found.traffic.forwards == [(PRESERVED, True), (CLEAN, False)]
    assert found.tally.parity_max == wanted.tally.parity_max > 0


EXACT: tuple[Objective, ...] = (
    CPPO(base=BASE, divergence="exact"),
    PAPO(base=BASE, removed_gradient=True, estimator="exact"),
    CPPO(base=PAPO(base=BASE, removed_gradient=True, estimator="exact")),
)


@pytest.mark.parametrize("objective", EXACT)
def test_whole_distributions_are_compared_with_all_graphs_there(
    objective: Objective, policy: Policy, inputs: Inputs
) -> None:
    assert objective.uses_distributions and not DEFAULT.uses_distributions
    assert update(policy, inputs, objective, "auto", settings()).traffic.most > 1
    with pytest.raises(FovealError, match="uses_distributions = True"):
        update(policy, inputs, objective, "apart", settings())


def test_apart_is_refused_for_them_before_the_run_starts(tiny_folder: Path) -> None:
    table = world_table(
        tiny_folder,
        objective={"type": "papo", "estimator": "exact", "removed_gradient": True},
        optimizer={"view_graphs": "apart"},
    )
    with pytest.raises(ConfigError, match='view_graphs is "apart", but papo compares whole distributions'):
        load(table)
    table["objective"]["estimator"] = "k3"
    assert StepSettings.of(load(table)).view_graphs == "apart"


@pytest.mark.parametrize(
    ("objective", "graphs", "held"),
    [
        (BASE, "auto", True),
        (DEFAULT, "auto", False),
        (DEFAULT, "together", True),
        (OBJECTIVES["papo, removed view with gradient"], "auto", False),
        (OBJECTIVES["papo, removed view with gradient"], "together", True),
        (OBJECTIVES["papo on chosen tokens"], "auto", True),
        (OBJECTIVES["papo on chosen tokens"], "apart", False),
        (EXACT[1], "auto", True),
        (OBJECTIVES["dvrp"], "auto", True),
        (OBJECTIVES["dvrp"], "apart", False),
    ],
)
def test_the_sampler_keeps_what_saves_a_forward_and_no_graph_beside_views_that_go_apart(
    objective: Objective, graphs: Graphs, held: bool
) -> None:
    plain, how = Sampling(group_size=4, max_new_tokens=9), replace(SAMPLED, view_graphs=graphs)
    found = kept_for_update(plain, objective, how)
    assert found == replace(
        plain,
        entropies=True,
        row_tokens=how.micro_batch_tokens,
        hold_tokens=held * how.micro_batch_tokens,
        product_tokens=how.micro_batch_tokens,
    )
    scored = kept_for_update(plain, objective, replace(how, score_old=True, hold_prompts="always"))
    assert scored == replace(plain, row_tokens=how.micro_batch_tokens, hold_tokens=sys.maxsize)
    never = kept_for_update(plain, objective, replace(how, hold_prompts="never", hold_products="never"))
    assert never.hold_tokens == never.product_tokens == 0
    always = kept_for_update(plain, objective, replace(how, hold_products="always"))
    assert always.product_tokens == sys.maxsize


def drop_leaves(patch: pytest.MonkeyPatch) -> None:
    """What a leaf's view adds to the gradient is forgotten."""
    patch.setattr(_Views, "finish", lambda self, view, leaf: leaf)


def stale_leaves(patch: pytest.MonkeyPatch) -> None:
    """What stands for a view is not its values."""
    right = _Views.leaf

    def wrong(self: _Views, view: ViewName, known: Any) -> TokenStats:
        stats = right(self, view, known)
        return replace(stats, logprobs=(stats.logprobs.detach() - 0.5).requires_grad_())

    patch.setattr(_Views, "leaf", wrong)


@pytest.mark.parametrize("plant", [drop_leaves, stale_leaves], ids=lambda f: f.__name__)
def test_a_planted_fault_is_seen_in_the_gradient(
    plant: Callable[[pytest.MonkeyPatch], None],
    policy: Policy,
    inputs: Inputs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = update(policy, inputs, DEFAULT, "together", settings())
    plant(monkeypatch)
    assert distance(update(policy, inputs, DEFAULT, "auto", settings()).gradient, wanted.gradient) > 0.01
