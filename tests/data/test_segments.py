"""Parts of a text as tokens: exact for tokenizers of words and of bytes."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from foveal.data.segments import breakdown_values, segment_masks, token_span
from foveal.train.setup import resolve_model
from foveal.types import Completion, Group, Problem
from foveal.worlds import FAMILIES, make_problem
from foveal.worlds.cells import seen_span

WORDS = ("I", " see", " a", " red", "", " circle", ".", " So", " 3")
"""Pieces of text; the empty one is a special token, which decodes to nothing."""


def decode(token_ids: Sequence[int]) -> str:
    return "".join(WORDS[index] for index in token_ids)


def test_a_part_is_the_tokens_that_hold_its_characters() -> None:
    ids = tuple(range(len(WORDS)))
    text = decode(ids)
    start = text.index(" a red")
    first, behind = token_span(ids, (start, text.index(".")), decode)
    assert decode(ids[first:behind]) == " a red circle"
    assert token_span(ids, (start + 2, start + 3), decode) == (3, 4), "half a token counts as one"
    assert token_span(ids, (0, len(text)), decode) == (0, len(ids))
    assert token_span(ids, (len(text), len(text)), decode)[1] <= len(ids)
    assert token_span((), (0, 0), decode) == (0, 0)


@settings(deadline=None, max_examples=200)
@given(ids=st.lists(st.integers(0, len(WORDS) - 1), max_size=12), data=st.data())
def test_a_part_is_covered_by_the_fewest_tokens(ids: list[int], data: st.DataObject) -> None:
    text = decode(ids)
    if not text:
        return
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    first, behind = token_span(ids, (start, end), decode)
    assert len(decode(ids[:first])) <= start and len(decode(ids[:behind])) >= end
    assert len(decode(ids[: first + 1])) > start and len(decode(ids[: behind - 1])) < end


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_exact_for_the_tokenizer_of_the_worlds(family: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("tiny"))

    def decoded(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))

    for index in range(5):
        problem = make_problem(family, split="train", seed=1, index=index, render=False)
        ids = tokenizer(str(problem.meta["chain_of_thought"]), add_special_tokens=False)["input_ids"]
        text = decoded(ids)
        span = seen_span(text)
        assert span is not None
        first, behind = token_span(ids, span, decoded)
        assert decoded(ids[first:behind]).split() == text[slice(*span)].split()


def test_it_is_right_where_a_letter_is_several_tokens(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    text = "naïve: 红色圆形 🙂 I see a 圆. So 3"

    def decoded(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))

    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = text.index(" a 圆")
    first, behind = token_span(ids, (start, text.index(". So")), decoded)
    assert decoded(ids[first:behind]) == " a 圆"


def group(*texts: str, segments: dict, breakdown: dict) -> Group:
    completions = tuple(
        Completion(
            token_ids=tuple(map(int, text)), sampled_logprobs=(0.0,) * len(text), text="", finish="stop"
        )
        for text in texts
    )
    return Group(
        problem=Problem(id="p", question="q", images=(), answer="1"),
        completions=completions,
        rewards=(0.0,) * len(texts),
        correct=(False,) * len(texts),
        segments=segments,
        breakdown=breakdown,
    )


def test_masks_and_values_have_a_row_for_each_completion() -> None:
    groups = [
        group("0123", "", segments={"facts": ((2, 7), None)}, breakdown={"facts": (0.5, None)}),
        group("01", segments={}, breakdown={"boxed": (1.0,)}),
    ]
    masks = segment_masks(groups, width=4, decode=decode)
    wanted = torch.zeros(3, 4, dtype=torch.bool)
    wanted[0, 1:3] = True
    assert list(masks) == ["facts"] and torch.equal(masks["facts"], wanted)
    values = breakdown_values(groups)
    assert values["facts"][0] == 0.5 and all(math.isnan(v) for v in values["facts"][1:].tolist())
    assert math.isnan(values["boxed"][0]) and values["boxed"][2] == 1.0
