"""Groups as tensors: padding, tokens without a finite log-probability, and the pictures of every view."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data.collate import collate
from foveal.data.views import perturb
from foveal.policy import Policy, load_policy
from foveal.policy.processing import Processor
from foveal.spec import FovealError
from foveal.types import CLEAN, REMOVED, Completion, Group, Inputs, Perturbation, PerturbationContext, Problem
from policy_cases import NONE, ONE, TALL, TWO, problem


class Noise(Perturbation):
    def __call__(
        self, image: Image.Image, *, rng: np.random.Generator, context: PerturbationContext
    ) -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (image.height, image.width, 3), dtype=np.uint8))


class Shrink(Perturbation):
    def __call__(
        self, image: Image.Image, *, rng: np.random.Generator, context: PerturbationContext
    ) -> Image.Image:
        return image.resize((28, 28))


class Donor(Perturbation):
    """The first picture of another problem, in this one's size."""

    @property
    def needs_donors(self) -> bool:
        return True

    def __call__(
        self, image: Image.Image, *, rng: np.random.Generator, context: PerturbationContext
    ) -> Image.Image:
        assert (context.patch, context.merge) == (14, 2)
        return context.donors[0].resize(image.size) if context.donors else image


@pytest.fixture(scope="module")
def policy(tiny_folder: Path) -> Policy:
    return load_policy(str(tiny_folder))


@pytest.fixture(scope="module")
def processor(policy: Policy) -> Processor:
    return policy.processor


def completion(*token_ids: int, logprobs: tuple[float, ...] | None = None, stop: bool = False) -> Completion:
    given = logprobs if logprobs is not None else tuple(-0.5 - i for i in range(len(token_ids)))
    return Completion(
        token_ids=token_ids, sampled_logprobs=given, text="", finish="stop" if stop else "length"
    )


def group(of: Problem, *completions: Completion, rewards: tuple[float, ...] | None = None) -> Group:
    n = len(completions)
    given = rewards if rewards is not None else (0.0,) * n
    return Group(problem=of, completions=completions, rewards=given, correct=tuple(r > 0.5 for r in given))


def gathered(
    processor: Processor, *groups: Group, key: tuple[int | str, ...] = (3, 4), **views: Perturbation
) -> Inputs:
    return collate(groups, processor=processor, views=(CLEAN, *views), perturbations=views, key=key)


def test_completions_are_padded_on_the_right_in_the_order_of_their_groups(processor: Processor) -> None:
    inputs = gathered(
        processor,
        group(ONE, completion(5, 6, 7, stop=True), completion(8), rewards=(1.0, 0.0)),
        group(NONE, completion(), completion(9, 10), rewards=(0.25, 0.75)),
    )
    pad = processor.pad_id
    assert inputs.completion_ids.tolist() == [[5, 6, 7], [8, pad, pad], [pad] * 3, [9, 10, pad]]
    assert inputs.completion_mask.tolist() == [
        [True] * 3,
        [True, False, False],
        [False] * 3,
        [True, True, False],
    ]
    assert inputs.sampled_logprobs.tolist() == [[-0.5, -1.5, -2.5], [-0.5, 0, 0], [0, 0, 0], [-0.5, -1.5, 0]]
    assert inputs.lengths.tolist() == [3, 1, 0, 2]
    assert inputs.truncated.tolist() == [False, True, True, True]
    assert inputs.prompt_index.tolist() == [0, 0, 1, 1]
    assert inputs.rewards.tolist() == [1.0, 0.0, 0.25, 0.75]
    assert inputs.correct.tolist() == [True, False, False, True]
    assert [prompt.problem_id for prompt in inputs.prompts] == ["one", "none"]
    assert [len(p) for p in inputs.vision[CLEAN].pixels] == [64, 0]


def test_groups_may_have_unequal_sizes(processor: Processor) -> None:
    inputs = gathered(processor, group(NONE, completion(1)), group(ONE, *[completion(2)] * 3))
    assert inputs.prompt_index.tolist() == [0, 1, 1, 1]


def test_only_empty_completions_give_one_column_of_padding(processor: Processor) -> None:
    inputs = gathered(processor, group(NONE, completion(), completion()))
    assert inputs.completion_ids.shape == (2, 1)
    assert not inputs.completion_mask.any()


@pytest.mark.parametrize("bad", [-math.inf, math.inf, math.nan, -1e300])
def test_tokens_without_a_finite_log_prob_are_dropped_and_counted(processor: Processor, bad: float) -> None:
    inputs = gathered(
        processor,
        group(NONE, completion(5, 6, 7, logprobs=(-1.0, bad, -2.0)), completion(8, 9, logprobs=(bad, bad))),
    )
    assert inputs.completion_ids.tolist()[0] == [5, 6, 7]
    assert inputs.completion_mask.tolist() == [[True, False, True], [False] * 3]
    assert inputs.sampled_logprobs.tolist() == [[-1.0, 0.0, -2.0], [0.0] * 3]
    assert inputs.lengths.tolist() == [3, 2]
    assert inputs.nonfinite_count == 3


def test_finite_log_probs_are_all_kept(processor: Processor) -> None:
    assert gathered(processor, group(NONE, completion(5, 6, logprobs=(0.0, -80.0)))).nonfinite_count == 0


def test_log_probs_that_are_not_one_a_token_are_refused(processor: Processor) -> None:
    with pytest.raises(FovealError, match="completion 1 of the batch has 1 log-probabilities for 2 tokens"):
        gathered(processor, group(NONE, completion(5), completion(5, 6, logprobs=(-1.0,))))


def test_a_perturbation_that_changes_the_size_is_refused(processor: Processor) -> None:
    with pytest.raises(
        FovealError, match=r"\(112, 112\) into one of \(28, 28\).*change \[perturbations.removed\]"
    ):
        gathered(processor, group(ONE, completion(5)), removed=Shrink(type="shrink"))


def test_perturbed_pictures_do_not_depend_on_the_rest_of_the_batch(processor: Processor) -> None:
    def pixels(*problems: Problem, key: tuple[int | str, ...] = (3, 4)) -> dict[str, torch.Tensor]:
        inputs = gathered(processor, *(group(of, completion(5)) for of in problems), key=key, removed=Noise())
        return dict(zip((of.id for of in problems), inputs.vision[REMOVED].pixels, strict=True))

    wanted = pixels(ONE, TWO, NONE, TALL)
    for problems in ((TALL, TWO), (TWO,), (NONE, TWO, ONE)):
        for name, found in pixels(*problems).items():
            assert torch.equal(found, wanted[name])
    assert not torch.equal(pixels(ONE, key=(3, 5))["one"], wanted["one"])
    assert not torch.equal(pixels(problem("other", "<image>", (112, 112)))["other"], wanted["one"])


def test_every_picture_and_view_has_noise_of_its_own(processor: Processor) -> None:
    pair = problem("pair", "<image> or <image>?", (56, 56), (56, 56))
    inputs = gathered(processor, group(pair, completion(5)), removed=Noise(), preserved=Noise())
    removed, preserved = inputs.vision["removed"].pixels[0], inputs.vision["preserved"].pixels[0]
    assert not torch.equal(removed[:16], removed[16:])
    assert not torch.equal(removed, preserved)


def test_views_have_the_patches_of_the_perturbed_pictures_and_clean_stays(processor: Processor) -> None:
    inputs = gathered(processor, group(TWO, completion(5)), group(NONE, completion(5)), removed=Noise())
    context = PerturbationContext()
    images = perturb(TWO, Noise(), view=REMOVED, key=(3, 4), context=context)
    assert torch.equal(inputs.vision[REMOVED].pixels[0], processor.pixels(images)[0])
    assert torch.equal(inputs.vision[CLEAN].pixels[0], processor.pixels(TWO.images)[0])
    assert [len(p) for p in inputs.vision[REMOVED].pixels] == [24 + 40, 0]


def test_donors_are_the_pictures_of_other_problems(processor: Processor) -> None:
    inputs = gathered(processor, group(ONE, completion(5)), group(TALL, completion(5)), removed=Donor())
    wanted, _ = processor.pixels([TALL.images[0].resize((112, 112))])
    assert torch.equal(inputs.vision[REMOVED].pixels[0], wanted)
    alone = gathered(processor, group(ONE, completion(5)), removed=Donor())
    assert torch.equal(alone.vision[REMOVED].pixels[0], alone.vision[CLEAN].pixels[0])
