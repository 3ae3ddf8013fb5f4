"""Products recorded in sampling: the update over them equals the update that makes them again."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from foveal.data.collate import collate
from foveal.objectives.cppo import CPPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.perturbations.distort import Colour
from foveal.perturbations.occlude import PatchMask
from foveal.policy import Policy, load_policy
from foveal.policy.families.qwen2_5_vl_decode import MergedDecoder
from foveal.policy.forward import micro_batches
from foveal.policy.held import Held
from foveal.policy.linears import ONEDNN, PLAIN, Linears, known_linear
from foveal.policy.linears import route as route_to
from foveal.policy.products import CHECKED, FixedRecord, ProductRecord, RunningRecord
from foveal.rollout import local
from foveal.rollout.fixed import decode_fixed
from foveal.rollout.graphs import Unheld
from foveal.rollout.local import LocalEngine
from foveal.train.draw import draw_groups
from foveal.train.parity import PRODUCT_GAPS
from foveal.train.settings import StepSettings
from foveal.train.step import train_step
from foveal.types import CLEAN, Completion, Group, Inputs, Objective, Sampling
from policy_cases import MIXED, NONE, Outcome, close, restored, shared, update, windowed

PATHS = ("split", "tiled", "dense")
PROBLEMS = tuple(of for of, _ in MIXED)
ENDING = Sampling(group_size=4, max_new_tokens=24, product_tokens=1 << 20, entropies=True)
EQUAL = replace(ENDING, max_new_tokens=7, min_new_tokens=8)
HELD = replace(ENDING, hold_tokens=1 << 20)


@pytest.fixture(autouse=True)
def restore(policy: Policy) -> Iterator[None]:
    with restored(policy):
        yield


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that linear layers of the text model multiply, in the forward."""
    found: list[int] = []
    run = Linears.product

    def product(self: Linears, x: Tensor, *rest: Any) -> Tensor:
        found.append(x.shape[0])
        return run(self, x, *rest)

    monkeypatch.setattr(Linears, "product", product)
    return found


def drawn(
    policy: Policy, sampling: Sampling = ENDING, *, key: int = 1
) -> tuple[Inputs, list[tuple[Completion, ...]]]:
    """Completions that have just been sampled, as a batch."""
    found = LocalEngine(policy).generate(PROBLEMS, sampling=sampling, key=(key,))
    return gathered(policy, found), found


def gathered(policy: Policy, found: Sequence[tuple[Completion, ...]]) -> Inputs:
    groups = [
        Group(
            problem=of,
            completions=completions,
            rewards=tuple(float(n % 3) for n in range(len(completions))),
            correct=(False,) * len(completions),
        )
        for of, completions in zip(PROBLEMS, found, strict=True)
    ]
    return collate(groups, processor=policy.processor, views=(CLEAN,), perturbations={}, key=(0,))


def used(policy: Policy) -> bool:
    """Whether products were taken since this was last asked, and all were right."""
    gap = policy.held.largest_gap()
    assert gap is None or gap < 1e-5
    return gap is not None


def again(policy: Policy, inputs: Inputs) -> Outcome:
    """The outcome with everything made again."""
    policy.held.clear()
    return shared(policy, inputs)


@pytest.mark.parametrize("linears", [PLAIN, ONEDNN], ids=["torch", "onednn"])
@pytest.mark.parametrize("sampling", [ENDING, EQUAL, HELD], ids=["ending", "equal", "prompts_held"])
@pytest.mark.parametrize("path", PATHS)
def test_recorded_products_give_the_log_probs_and_gradients_of_making_them_again(
    policy: Policy, path: str, sampling: Sampling, linears: Linears
) -> None:
    policy.attention_path = path  # type: ignore[assignment]
    policy.use_linears(linears)
    inputs, _ = drawn(policy, sampling)
    assert sampling is EQUAL or len(set(inputs.lengths.tolist())) > 4
    found = update(policy, inputs)
    assert used(policy)
    assert close(found, again(policy, inputs))
    assert not used(policy)


@pytest.mark.parametrize("window", [1, 9, 40])
def test_layers_with_a_window_are_as_exact(tiny_folder: Path, tmp_path: Path, window: int) -> None:
    policy = load_policy(str(windowed(tiny_folder, tmp_path / "model", window)))
    inputs, _ = drawn(policy)
    found = update(policy, inputs)
    assert used(policy)
    assert close(found, again(policy, inputs))


@pytest.fixture
def one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding as a graph of a device would hold it, run as it is."""

    def fixed(self: LocalEngine, record: Any, rows: Any, states: Any, **given: Any) -> None:
        decode_fixed(record, rows, states, graphs=Unheld(), **given)

    monkeypatch.setattr(LocalEngine, "_decode", fixed)
    monkeypatch.setattr(local, "decode_way", lambda name, policy: "graph")


@pytest.mark.usefixtures("one_shape")
@pytest.mark.parametrize("sampling", [EQUAL, HELD], ids=["equal", "ending"])
def test_decoding_in_one_shape_records_the_same(policy: Policy, sampling: Sampling) -> None:
    inputs, _ = drawn(policy, sampling)
    assert isinstance(policy.held.products[0].record, FixedRecord)
    found = update(policy, inputs)
    assert used(policy)
    assert close(found, again(policy, inputs))


def test_a_record_for_graphs_goes_on_where_these_fail(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Unheld):
        fault = "no capture here"

        def __init__(self, device: torch.device) -> None: ...

    monkeypatch.setattr(local, "decode_way", lambda name, policy: "graph")
    monkeypatch.setattr(local, "CudaGraphs", Failing)
    with pytest.warns(RuntimeWarning, match="without CUDA graphs.*no capture here") as told:
        inputs, _ = drawn(policy, replace(HELD, row_tokens=16))  # each prompt by itself
    assert len(told) == 1 and isinstance(policy.held.products[0].record, FixedRecord)
    found = update(policy, inputs)
    assert used(policy)
    assert close(found, again(policy, inputs))


@pytest.mark.parametrize("wanted", [RunningRecord, FixedRecord])
def test_what_was_never_recorded_reaches_nothing(
    policy: Policy, wanted: type[ProductRecord], request: pytest.FixtureRequest
) -> None:
    """torch fills what it has not set with NaN in this mode."""
    if wanted is FixedRecord:
        request.getfixturevalue("one_shape")
    torch.use_deterministic_algorithms(True)
    try:
        inputs, _ = drawn(policy, replace(HELD, max_new_tokens=400))
        record = policy.held.products[0].record
        assert isinstance(record, wanted)
        assert all(kept.isnan().any() for kept in record.kept.values()), "completions end early"
        found = update(policy, inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert used(policy)
    assert close(found, again(policy, inputs))


def test_chosen_completions_in_any_micro_batches_are_exact(policy: Policy) -> None:
    rows = torch.tensor([0, 2, 3, 5, 9, 10, 14])
    for tokens in (60, 200, 1 << 20):
        inputs, _ = drawn(policy)
        parts = micro_batches(inputs, tokens=tokens, rows=rows)
        policy.held.uses = len(parts)
        found = update(policy, inputs, parts)
        assert used(policy)
        assert policy.held.products == []
        policy.held.clear()
        wanted = update(policy, inputs, [rows])
        assert close(found, wanted)


def test_rounds_of_sampling_are_found_in_the_call_that_drew_them(policy: Policy) -> None:
    engine = LocalEngine(policy)
    first = engine.generate(PROBLEMS, sampling=HELD, key=(1,))
    second = engine.generate(PROBLEMS, sampling=HELD, key=(2,))
    mixed = [(*a[:2], *b[2:]) for a, b in zip(first, second, strict=True)]
    inputs = gathered(policy, mixed)
    found = update(policy, inputs)
    assert used(policy)
    assert close(found, again(policy, inputs))


def test_the_forward_of_the_update_multiplies_prompts_alone_and_a_few_rows_to_check(
    policy: Policy, products: list[int]
) -> None:
    policy.use_linears(replace(PLAIN, forward=True))
    for sampling in (ENDING, HELD):
        inputs, _ = drawn(policy, sampling)
        layers = policy.model.config.text_config.num_hidden_layers  # type: ignore[union-attr]
        prompts = sum(len(prompt.token_ids) for prompt in inputs.prompts)
        products.clear()
        update(policy, inputs)
        assert used(policy)
        fed = int((inputs.lengths - 1).sum())
        counts = [products.count(rows) for rows in (prompts, len(inputs.prompts), fed, prompts + fed)]
        # In the last layer keys and values of all prompt tokens, the rest of each one's last.
        assert counts == ([0, 0, 0, 0] if sampling is HELD else [7 * (layers - 1) + 2, 5, 0, 0])


def test_what_is_not_of_these_weights_pictures_prompts_and_tokens_is_made_again(policy: Policy) -> None:
    inputs, _ = drawn(policy)
    given: list[Inputs] = []
    ids = inputs.completion_ids.clone()
    ids[3, 0] = (ids[3, 0] + 1) % 250
    given.append(replace(inputs, completion_ids=ids))
    pixels = tuple(part.clone() for part in inputs.vision[CLEAN].pixels)
    given.append(replace(inputs, vision={CLEAN: replace(inputs.vision[CLEAN], pixels=pixels)}))
    prompts = (*inputs.prompts[:-1], replace(inputs.prompts[-1]))
    given.append(replace(inputs, prompts=prompts))
    for other in given:
        assert policy.held.products
        policy(other, CLEAN).logprobs.sum().backward()
        assert not used(policy)
    with torch.no_grad():
        policy(inputs, CLEAN)
    removed = replace(inputs, vision={"removed": inputs.vision[CLEAN]})
    policy(removed, "removed").logprobs.sum().backward()
    assert not used(policy)
    with torch.no_grad():
        next(policy.parameters()).mul_(1.01)
    assert close(update(policy, inputs), shared(policy, inputs))
    assert not used(policy)


@pytest.mark.parametrize("dropping", [False, True])
@pytest.mark.parametrize("kept", [0, 1 << 20])
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_of_any_optimizer_ends_what_is_held(
    policy: Policy, fused: bool, kept: int, dropping: bool
) -> None:
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, fused=fused)
    if dropping:
        optimizer.register_step_post_hook(lambda of, *_: of.zero_grad())
    inputs, _ = drawn(policy, replace(HELD, product_tokens=kept))
    for parameter in policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    found = update(policy, inputs)
    assert not used(policy)
    assert close(found, again(policy, inputs))


def test_steps_are_counted_without_a_change_to_anyones_graph() -> None:
    class Idle(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            """Nothing, as when gradients are gathered over several batches."""

    weight = torch.ones(3, requires_grad=True)
    loss = (weight * weight).sum()
    weight.grad = torch.zeros(3)
    Idle([weight], lr=0.1).step()
    loss.backward()
    assert torch.equal(weight.grad, 2 * torch.ones(3))


def test_a_row_of_completions_of_one_token_is_one_of_the_uses(policy: Policy) -> None:
    inputs, _ = drawn(policy)
    one = inputs.prompts[0], inputs.vision[CLEAN].pixels[0], (5,)
    assert policy.held.find_products([one], device=policy.device) is None
    assert policy.held.products == []


def test_products_are_let_go_with_their_last_use_with_the_weights_and_not_kept_where_they_do_not_fit(
    policy: Policy,
) -> None:
    engine = LocalEngine(policy)
    prompts = sum(len(policy.processor.encode(of).prompt.token_ids) for of in PROBLEMS)
    whole = prompts + len(PROBLEMS) * 4 * 24
    for limit, view, kept in ((whole, CLEAN, 1), (whole - 1, CLEAN, 0), (whole, "removed", 0), (0, CLEAN, 0)):
        engine.load_weights({}, version=1)
        engine.generate(PROBLEMS, sampling=replace(ENDING, product_tokens=limit), key=(1,), view=view)
        assert len(policy.held.products) == kept
    engine.load_weights({}, version=1)
    # A row takes products of all its completions or of none: once a call does not fit, none are of use.
    for calls in (1, 2, 0):
        engine.generate(PROBLEMS, sampling=replace(ENDING, product_tokens=2 * whole), key=(1,))
        assert len(policy.held.products) == calls
    engine.load_weights({}, version=2)
    drawn(policy)
    engine.load_weights({}, version=3)
    assert policy.held.products == []
    inputs, _ = drawn(policy)
    (held,) = policy.held.products
    update(policy, inputs)
    assert policy.held.products == [] and held.record.kept == {}


def test_nothing_is_kept_under_gradient_checkpointing_or_of_layers_that_are_not_plain(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(str(tiny_folder))
    policy.model.gradient_checkpointing_enable()  # type: ignore[operator]
    drawn(policy)
    assert policy.held.products == []
    policy.model.gradient_checkpointing_disable()  # type: ignore[operator]
    inputs, _ = drawn(policy)
    assert len(policy.held.products) == 1
    policy.model.gradient_checkpointing_enable()  # type: ignore[operator]
    update(policy, inputs)
    assert not used(policy)
    policy.model.gradient_checkpointing_disable()  # type: ignore[operator]
    with monkeypatch.context() as patch:
        patch.setattr(MergedDecoder, "fits", lambda text: False)
        drawn(policy)
    assert policy.held.products == []


def test_recording_changes_no_draw(policy: Policy) -> None:
    _, found = drawn(policy)
    _, wanted = drawn(policy, replace(ENDING, product_tokens=0))
    assert found == wanted


def test_completions_of_one_token_have_none(policy: Policy) -> None:
    inputs, _ = drawn(policy, replace(ENDING, max_new_tokens=1))
    found = update(policy, inputs)
    assert not used(policy)
    assert close(found, again(policy, inputs))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", ["qkv", "attention", "attended", "gate_up", "output"])
def test_a_product_that_is_wrong_is_seen(policy: Policy, kind: str, layer: int) -> None:
    inputs, _ = drawn(policy, EQUAL)
    (held,) = policy.held.products
    held.record.of(layer, kind).mul_(1.02)
    update(policy, inputs)
    gap = policy.held.largest_gap()
    assert gap is not None and gap > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "layer"), [("input", 0), ("attention", 0), ("attention", 1)])
def test_one_token_that_attended_or_was_read_wrongly_is_seen(
    tiny_folder: Path, kind: str, layer: int, dtype: torch.dtype
) -> None:
    policy = load_policy(str(tiny_folder), dtype=dtype)
    inputs, _ = drawn(policy, EQUAL)
    (held,) = policy.held.products
    held.record.of(layer, kind)[37] = 0
    policy(inputs, CLEAN)
    gap = policy.held.largest_gap()
    assert gap is not None and gap > 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["attended", "output"])
def test_a_product_that_is_missing_is_seen_beside_large_states(
    tiny_folder: Path, kind: str, dtype: torch.dtype
) -> None:
    policy = load_policy(str(tiny_folder), dtype=dtype)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.mul_(10)  # type: ignore[operator, union-attr]
    before = {"attended": (0, "input"), "output": (1, "attended")}[kind]
    gaps = []
    for spoilt in (False, True):
        inputs, _ = drawn(policy, EQUAL)
        (held,) = policy.held.products
        if spoilt:
            held.record.of(before[0], kind).copy_(held.record.of(*before))
        policy(inputs, CLEAN)
        gaps.append(policy.held.largest_gap())
        policy.held.clear()
    right, wrong = gaps
    assert right is not None and wrong is not None
    limit = PRODUCT_GAPS["float32" if dtype == torch.float32 else "bfloat16"]
    assert right < limit / 3 and wrong > 1.5 * limit


def test_nothing_held_outlives_an_error_a_copy_or_older_weights(policy: Policy) -> None:
    inputs, _ = drawn(policy, HELD)
    policy(inputs, CLEAN)
    assert policy.held.gaps
    policy.held.clear()
    assert policy.held.largest_gap() is None and policy.held.uses == 1
    drawn(policy, HELD)
    copied = copy.deepcopy(policy)
    assert copied.held.products == [] == copied.held.rows and copied.held.model is copied.model
    assert len(policy.held.products) == 1
    with torch.no_grad():
        next(policy.parameters()).mul_(1.01)
    drawn(policy, HELD, key=2)
    assert len(policy.held.products) == 1 and policy.held.tokens == sum(
        len(policy.processor.encode(of).prompt.token_ids) for of in PROBLEMS
    )


def test_products_are_not_used_under_autocast_or_in_torchs_checkpoints(policy: Policy) -> None:
    inputs, _ = drawn(policy)
    with torch.autocast("cpu", torch.bfloat16):
        assert policy._products(inputs, CLEAN, torch.arange(3)) is None
    assert policy._products(inputs, CLEAN, torch.arange(3)) is not None
    copied = copy.deepcopy(policy)
    layers = copied.model.model.language_model.layers  # type: ignore[union-attr]
    for number, layer in enumerate(layers):
        layers[number] = checkpoint_wrapper(layer)
    assert policy.takes_products and not copied.takes_products


def test_a_hook_on_a_linear_layer_sees_all_rows(policy: Policy) -> None:
    seen: list[int] = []
    layer = policy.model.model.language_model.layers[0].mlp.up_proj  # type: ignore[union-attr, index]
    inputs, _ = drawn(policy, HELD)
    hook = layer.register_forward_hook(lambda _, given, made: seen.append(len(made)))
    policy(inputs, CLEAN)
    hook.remove()
    assert not used(policy) and seen == [int((inputs.lengths - 1).sum())]


def test_a_known_product_leaves_the_rest_to_the_layers_library(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(4, 3)
    route_to(layer, ONEDNN)
    taken: list[Linears] = []
    run = Linears.product

    def product(self: Linears, *given: Any) -> Tensor:
        taken.append(self)
        return run(self, *given)

    monkeypatch.setattr(Linears, "product", product)
    known_linear(layer, torch.randn(5, 4), torch.randn(3, 3))
    assert taken == [ONEDNN]


OBJECTIVES: dict[str, Objective] = {
    "grpo": GRPO(),
    "papo": PAPO(kl_prcp_coef=0.05, removed_gradient=True),
    "cppo": CPPO(cpl_coef=0.2),
}
SETTINGS = StepSettings(temperature=1.0, micro_batch_tokens=1 << 20)


def stepped(
    policy: Policy, objective: Objective, sampling: Sampling, settings: StepSettings
) -> tuple[dict[str, float], dict[str, Tensor], bool]:
    """Metrics, weights and whether the sampler was distrusted."""
    found = LocalEngine(policy).generate(PROBLEMS, sampling=sampling, key=(3,))
    inputs = gathered(policy, found)
    inputs = collate(
        [
            Group(problem=of, completions=c, rewards=(1.0, 0.0, 0.5, 0.2), correct=(True,) + (False,) * 3)
            for of, c in zip(PROBLEMS, found, strict=True)
        ],
        processor=policy.processor,
        views=objective.views,
        perturbations={"removed": PatchMask(ratio=0.5), "preserved": Colour()},
        key=(3, 1),
    )
    result = train_step(
        policy, None, torch.optim.SGD(policy.parameters(), lr=0.1), inputs, objective, settings
    )
    weights = {key: value.clone() for key, value in policy.model.state_dict().items()}
    return dict(result.metrics), weights, result.distrusted


@pytest.mark.parametrize("mini_batches", [1, 2])
@pytest.mark.parametrize("graphs", ["apart", "together"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_over_recorded_products_makes_the_same_update(
    policy: Policy, name: str, graphs: Any, mini_batches: int
) -> None:
    start = {key: value.clone() for key, value in policy.model.state_dict().items()}
    settings = replace(SETTINGS, mini_batches=mini_batches, view_graphs=graphs)
    found = []
    for sampling in (replace(ENDING, product_tokens=0), ENDING, HELD):
        policy.model.load_state_dict(start)
        metrics, after, distrusted = stepped(policy, OBJECTIVES[name], sampling, settings)
        assert not distrusted
        gap = metrics.pop("sampler/product_gap_max", None)
        assert (gap is None) == (sampling.product_tokens == 0)
        assert gap is None or 0 < gap < 1e-5
        assert policy.held.products == [] == policy.held.rows
        found.append((metrics, after))
    (wanted_metrics, wanted), *others = found
    for metrics, after in others:
        assert metrics == pytest.approx(wanted_metrics, rel=1e-4, abs=1e-5)
        for key, value in wanted.items():
            moved = (value - start[key]).double().norm()
            rounding = torch.finfo(value.dtype).eps * value.norm()
            assert (after[key] - value).double().norm() <= 2e-5 * moved + rounding


def test_a_step_on_wrong_products_is_made_anew_without(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = {key: value.clone() for key, value in policy.model.state_dict().items()}
    scored = replace(SETTINGS, score_old=True)
    _, wanted, _ = stepped(policy, GRPO(), replace(ENDING, product_tokens=0), scored)
    put = MergedDecoder.record

    def spoilt(self: MergedDecoder, *given: Any, **how: Any) -> Any:
        record = put(self, *given, **how)
        note = record.put

        def wrong(layer: int, made: dict[str, Tensor]) -> None:
            note(layer, made | {"qkv": made["qkv"] * 1.01} if layer == 1 else made)

        monkeypatch.setattr(record, "put", wrong)
        return record

    monkeypatch.setattr(MergedDecoder, "record", spoilt)
    policy.model.load_state_dict(start)
    gated = replace(SETTINGS, product_gap_limit=1e-3)
    metrics, found, distrusted = stepped(policy, GRPO(), ENDING, gated)
    assert distrusted
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    assert metrics["sampler/product_gap_max"] == pytest.approx(0.01, rel=0.05)
    policy.model.load_state_dict(start)
    _, trusting, seen = stepped(policy, GRPO(), ENDING, SETTINGS)
    assert not seen
    assert not all(torch.equal(trusting[key], value) for key, value in wanted.items())


def test_each_micro_batch_of_a_step_takes_its_products(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    run = Held.find_products

    def find(self: Held, *given: Any, **options: Any) -> Any:
        part = run(self, *given, **options)
        found.append(part is not None)
        return part

    monkeypatch.setattr(Held, "find_products", find)
    settings = replace(SETTINGS, micro_batch_tokens=120)
    metrics, _, _ = stepped(policy, GRPO(), ENDING, settings)
    assert len(found) > 2 and all(found)
    assert metrics["sampler/product_gap_max"] < 1e-5


@pytest.mark.parametrize("score_old", [False, True])
def test_a_product_that_is_not_a_number_is_wrong_and_a_policy_that_is_not_is_not(
    policy: Policy, score_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = MergedDecoder.record

    def spoilt(self: MergedDecoder, *given: Any, **how: Any) -> Any:
        record = put(self, *given, **how)
        note = record.put
        monkeypatch.setattr(
            record, "put", lambda layer, made: note(layer, {kind: x * torch.nan for kind, x in made.items()})
        )
        return record

    monkeypatch.setattr(MergedDecoder, "record", spoilt)
    how = replace(SETTINGS, product_gap_limit=1e-3, score_old=score_old)
    metrics, _, distrusted = stepped(policy, GRPO(), ENDING, how)
    assert distrusted and metrics["policy/skipped_count"] == 0
    inputs, _ = drawn(policy)
    with torch.no_grad():
        policy.model.lm_head.weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
    result = train_step(
        policy,
        None,
        torch.optim.SGD(policy.parameters(), lr=0.1),
        inputs,
        GRPO(),
        replace(how, score_old=False),
    )
    assert not result.distrusted


def test_problems_without_a_picture_have_equal_views_where_terms_rank_them(policy: Policy) -> None:
    """Differences between views that are one must be 0: rounding would choose tokens by them."""
    objective = CPPO(cpl_coef=0.5, select_in="update", gate=False)
    drawn_ = LocalEngine(policy).generate([NONE], sampling=replace(ENDING, hold_tokens=1 << 20), key=(5,))
    group = Group(
        problem=NONE, completions=drawn_[0], rewards=(1.0, 0.0, 0.5, 0.2), correct=(True,) + (False,) * 3
    )
    inputs = collate(
        [group],
        processor=policy.processor,
        views=objective.views,
        perturbations={"removed": PatchMask(ratio=0.5), "preserved": Colour()},
        key=(0,),
    )
    assert policy.held.products
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    metrics = train_step(policy, None, optimizer, inputs, objective, SETTINGS).metrics
    assert "sampler/product_gap_max" not in metrics
    assert metrics["perception/removed_kl"] == metrics["perception/preserved_kl"] == 0


def test_products_are_not_recorded_where_some_completions_see_another_view(policy: Policy) -> None:
    for shares, kept in (
        ({CLEAN: 1.0}, 1),
        ({CLEAN: 0.5, "removed": 0.5}, 0),
        ({CLEAN: 1.0, "removed": 0.0}, 1),
    ):
        policy.held.clear()
        draw_groups(
            LocalEngine(policy),
            PROBLEMS,
            sampling=ENDING,
            shares=shares,
            shown=lambda of, view: of,
            key=(1,),
        )
        assert len(policy.held.products) == kept


@pytest.mark.parametrize("known", [0, 3, 5])
@pytest.mark.parametrize("total", [False, True])
def test_a_known_product_has_the_layers_gradient(known: int, total: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(4, 3).double()
    x, added = (torch.randn(5, size, generator=draw, dtype=torch.float64).requires_grad_() for size in (4, 3))
    more = added if total else None

    def found(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor) -> Tensor:
        made = torch.nn.functional.linear(x, weight, bias) + (added if total else 0)
        return known_linear(layer, x, made.detach()[5 - known :], added if total else None)

    wanted = layer(x) + (added if total else 0)
    slope = torch.randn(5, 3, generator=draw, dtype=torch.float64)
    leaves = (x, layer.weight, layer.bias, *((added,) if total else ()))
    made = known_linear(layer, x, wanted.detach()[5 - known :], more)
    assert torch.equal(made, wanted)
    for one, other in zip(
        torch.autograd.grad(made, leaves, slope), torch.autograd.grad(wanted, leaves, slope), strict=True
    ):
        assert (one - other).abs().max() < 1e-14


def test_so_many_rows_are_checked_and_other_ones_in_each_product(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, _ = drawn(policy, EQUAL)
    fed = int((inputs.lengths - 1).sum())
    assert fed > 2 * CHECKED
    seen: list[Tensor] = []
    run = torch.nn.functional.linear

    def linear(x: Tensor, *rest: Any) -> Tensor:
        if x.shape[0] == CHECKED:
            seen.append(x)
        return run(x, *rest)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    update(policy, inputs)
    layers = policy.model.config.text_config.num_hidden_layers  # type: ignore[union-attr]
    assert len(seen) == 7 * layers
    assert not torch.equal(seen[0], seen[1]), "queries and keys of one layer, at other tokens"
