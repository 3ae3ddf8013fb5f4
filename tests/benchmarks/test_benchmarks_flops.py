"""The closed formula of a step's FLOPs: by hand, and against torch's counter on the real forward."""

from pathlib import Path

import flops
import pytest
import torch
from flops import GroupShape, Widths

from foveal.policy import load_policy
from foveal.policy.linears import ONEDNN, PLAIN
from foveal.rollout.local import LocalEngine
from foveal.types import CLEAN, Sampling
from policy_cases import NONE, ONE, TALL, TWO, batch, problem

HAND = Widths(
    patch=6,
    merge=2,
    window=2,
    vision=4,
    vision_inner=5,
    vision_layers=3,
    vision_full=1,
    hidden=8,
    inner=10,
    layers=2,
    heads=4,
    kv_heads=2,
    head=3,
    vocabulary=20,
)


def test_vision_by_hand() -> None:
    # 4 x 6 patches are 2 x 3 visual tokens: windows of 2 x 2 and 2 x 1 of them, 16 and 8 patches.
    found = flops.vision(HAND, (1, 4, 6))
    # A patch in a layer: 4*12 for queries, keys, values; 4*4 out; 3 * 4*5 in the MLP: 124 multiply-adds.
    # The merger on 6 tokens of 4*4 numbers: 16*16 + 16*8 = 384.
    assert found.linear == 2 * (3 * 24 * 124 + 6 * 384)
    # One full layer of 24^2 pairs, two windowed ones of 16^2 + 8^2; 2 products of 4 numbers a pair.
    assert found.attention == 2 * 2 * 4 * (576 + 2 * 320)
    assert found.stem == 2 * 24 * 6 * 4
    assert found.forward == found.linear + found.attention + found.stem
    assert found.backward == 2 * found.linear + 5 * found.attention // 2 + found.stem


def test_frames_of_a_picture_do_not_see_each_other() -> None:
    one, two = flops.vision(HAND, (1, 4, 4)), flops.vision(HAND, (2, 4, 4))
    assert (two.linear, two.attention, two.stem) == (2 * one.linear, 2 * one.attention, 2 * one.stem)


def test_a_shared_pass_by_hand() -> None:
    group = GroupShape(prompt=7, grids=(), completions=(3, 1, 0))
    # A position in a layer: queries and output 8*12 each, keys and values 8*6 each, MLP 3 * 8*10: 528.
    # 7 prompt tokens and 2 fed ones: 9 positions in the first layer, and 3 in the second, the prompt's last
    # and the fed: of the other 6 only keys and values, 96. Pairs in the first: 7^2 of the prompt, 2*7 to it
    # and 2*2 among the fed; in the second, 7 of the prompt. The head: 4 completion tokens of 8 * 20.
    linear = 2 * (9 * 528 + 3 * 528 + 6 * 96 + 4 * 160)
    attention = 2 * 2 * 12 * ((49 + 14 + 4) + (7 + 14 + 4))
    assert flops.no_gradient_pass(HAND, [group]) == linear + attention
    assert flops.gradient_pass(HAND, [group]) == 3 * linear + attention + 5 * attention // 2


def test_sampling_by_hand() -> None:
    group = GroupShape(prompt=7, grids=(), completions=(3,))
    # The two fed tokens look at 7 + 1 and 7 + 2 keys.
    linear = 2 * (9 * 528 + 3 * 528 + 6 * 96 + 3 * 160)
    attention = 2 * 2 * 12 * ((49 + 8 + 9) + (7 + 8 + 9))
    assert flops.sampling(HAND, [group]) == linear + attention
    assert flops.floor(HAND, [group]) == flops.sampling(HAND, [group]) + flops.gradient_pass(HAND, [group])


def test_a_group_costs_its_prompt_and_picture_once() -> None:
    grids = ((1, 8, 8),)
    alone = [GroupShape(prompt=30, grids=grids, completions=(5,))]
    eight = [GroupShape(prompt=30, grids=grids, completions=(5,) * 8)]
    nothing = [GroupShape(prompt=30, grids=grids, completions=())]
    for cost in (flops.no_gradient_pass, flops.gradient_pass, flops.sampling):
        assert cost(HAND, eight) - cost(HAND, nothing) == 8 * (cost(HAND, alone) - cost(HAND, nothing))


EVEN = {
    "one_picture": ((ONE, (5,) * 8),),
    "two_pictures": ((TWO, (6, 6)),),
    "windows_cut_at_the_edge": ((TALL, (4, 4, 4)),),
    "no_picture": ((NONE, (3, 3)),),
    "two_groups": ((ONE, (5, 5)), (problem("one again", ONE.question, (112, 112)), (5, 5))),
}
"""Batches in which nothing is padded."""


@pytest.mark.parametrize("case", EVEN)
def test_the_split_path_does_exactly_the_closed_formula(tiny_folder: Path, case: str) -> None:
    policy = load_policy(str(tiny_folder), attention="split")
    inputs = batch(policy, *EVEN[case])
    widths, groups = Widths.of(policy.model.config), flops.group_shapes(inputs)
    with torch.no_grad(), flops.counter() as scored:
        policy(inputs, CLEAN)
    with flops.counter() as trained:
        policy(inputs, CLEAN).logprobs.sum().backward()
    assert scored.get_total_flops() == flops.no_gradient_pass(widths, groups)
    assert trained.get_total_flops() == flops.gradient_pass(widths, groups)


def test_every_product_of_onednn_is_counted(tiny_folder: Path) -> None:
    policy = load_policy(str(tiny_folder), attention="split")
    inputs = batch(policy, *EVEN["two_pictures"])
    found = []
    for chosen in (PLAIN, ONEDNN):
        policy.use_linears(chosen)
        with flops.counter() as counted:
            policy(inputs, CLEAN).logprobs.sum().backward()
            LocalEngine(policy).generate([TWO], sampling=Sampling(group_size=2, max_new_tokens=4), key=(0,))
        found.append(counted.get_total_flops())
    assert found[0] == found[1] > 0


def test_the_dense_path_costs_more_than_the_floor(tiny_folder: Path) -> None:
    policy = load_policy(str(tiny_folder), attention="dense")
    inputs = batch(policy, *EVEN["two_groups"])
    with flops.counter() as trained:
        policy(inputs, CLEAN).logprobs.sum().backward()
    needed = flops.gradient_pass(Widths.of(policy.model.config), flops.group_shapes(inputs))
    assert trained.get_total_flops() > 1.02 * needed


def test_group_shapes_of_some_rows_leave_out_the_others(tiny_folder: Path) -> None:
    policy = load_policy(str(tiny_folder))
    inputs = batch(policy, (ONE, (5, 1, 9)), (NONE, (3, 12)), (TWO, (0, 7)))
    rows = torch.tensor([True, False, True, False, False, False, True])
    one, two = flops.group_shapes(inputs, rows)
    assert (one.completions, two.completions) == ((5, 9), (7,))
    assert (one.grids, two.grids) == (((1, 8, 8),), ((1, 4, 6), (1, 10, 4)))
    assert one.prompt == len(inputs.prompts[0].token_ids)
    assert len(flops.group_shapes(inputs)) == 3
