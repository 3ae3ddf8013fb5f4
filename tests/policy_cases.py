"""Batches for the tests of the policy, and the plain transformers forward they are compared with."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from foveal.data.collate import collate
from foveal.policy import Policy
from foveal.policy.linears import PLAIN
from foveal.types import CLEAN, Completion, Group, Inputs, Problem, TokenStats


def picture(width: int, height: int, *, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def problem(name: str, question: str, *sizes: tuple[int, int]) -> Problem:
    images = tuple(picture(*size, seed=hash_free(name) + i) for i, size in enumerate(sizes))
    return Problem(id=name, question=question, images=images, answer="1")


def hash_free(name: str) -> int:
    return sum(map(ord, name))


ONE = problem("one", "<image>How many red circles?", (112, 112))
TWO = problem("two", "first <image> then <image> which shows more?", (84, 56), (56, 140))
NONE = problem("none", "How many is 3 and 4?")
TALL = problem("tall", "look: <image> how many red circles are in the picture?", (84, 196))


def group(policy: Policy, of: Problem, lengths: Sequence[int], *, seed: int = 0) -> Group:
    """A group whose completions are random words of these lengths."""
    words = policy.processor.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    draw = np.random.default_rng(seed + hash_free(of.id))
    completions = tuple(
        Completion(
            token_ids=tuple(draw.integers(0, words, length).tolist()),
            sampled_logprobs=(-1.0,) * length,
            text="",
            finish="length",
        )
        for length in lengths
    )
    nothing = (0.0,) * len(lengths)
    return Group(problem=of, completions=completions, rewards=nothing, correct=(False,) * len(lengths))


def batch(policy: Policy, *parts: tuple[Problem, Sequence[int]]) -> Inputs:
    groups = [group(policy, of, lengths) for of, lengths in parts]
    return collate(groups, processor=policy.processor, views=(CLEAN,), perturbations={}, key=(0,))


MIXED: tuple[tuple[Problem, Sequence[int]], ...] = (
    (ONE, (5, 1, 9)),
    (TWO, (0, 7, 2)),
    (NONE, (3, 12, 1)),
    (TALL, (6, 6, 4)),
)

CASES: dict[str, tuple[tuple[Problem, Sequence[int]], ...]] = {
    "mixed": MIXED,
    "no_picture": ((NONE, (4, 6)), (problem("also none", "Which of the two squares is it?"), (5, 5))),
    "one_token_completions": ((ONE, (1, 1)), (NONE, (1, 1))),
    "empty_completions": ((ONE, (0, 0)), (TWO, (0, 4))),
    "group_of_two": ((TWO, (8, 3)),),
    "group_of_eight": ((ONE, (3, 9, 1, 6, 6, 2, 4, 8)), (TALL, (5,) * 8)),
    "same_prompt_length": ((ONE, (3, 5)), (problem("one again", ONE.question, (112, 112)), (6, 2))),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    logprobs: Tensor
    entropy: Tensor
    grads: dict[str, Tensor]


def plain_model(policy: Policy) -> nn.Module:
    """The same weights in an ordinary transformers model."""
    model: nn.Module = AutoModelForImageTextToText.from_pretrained(
        policy.processor.folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    model.to(next(policy.parameters()).dtype)
    model.load_state_dict(policy.model.state_dict())
    return model.train()


def plain_logits(model: nn.Module, policy: Policy, inputs: Inputs, row: int) -> Tensor:
    """Logits [length, V] of one completion, run alone behind its prompt and pictures."""
    owner, length = int(inputs.prompt_index[row]), int(inputs.lengths[row])
    prompt = inputs.prompts[owner]
    ids = torch.cat([prompt.token_ids, inputs.completion_ids[row, :length]])[None]
    pictures = {}
    if len(prompt.grids):
        pictures = {"pixel_values": inputs.vision[CLEAN].pixels[owner], "image_grid_thw": prompt.grids}
    kinds = (ids == policy.family.image_token_id).int()
    found: Tensor = model(
        input_ids=ids, mm_token_type_ids=kinds, attention_mask=torch.ones_like(ids), **pictures
    ).logits[0]
    start = len(prompt.token_ids) - 1
    return found[start : start + length]


def greedy(policy: Policy, problems: Sequence[Problem], *, length: int) -> list[tuple[int, ...]]:
    """The likeliest tokens by transformers' own `generate`, no placeholder of a picture among them; without a
    cache, since its cache of a layer with a window of 1 keeps everything."""
    model, found = plain_model(policy).eval(), []
    for of in problems:
        encoded = policy.processor.encode(of)
        ids = encoded.prompt.token_ids[None]
        pictures = {}
        if of.images:
            pictures = {"pixel_values": encoded.pixels, "image_grid_thw": encoded.prompt.grids}
        output = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == policy.family.image_token_id).int(),
            do_sample=False,
            max_new_tokens=length,
            use_cache=False,
            suppress_tokens=list(policy.family.banned_token_ids()),
            **pictures,
        )
        found.append(tuple(output[0, ids.shape[1] :].tolist()))
    return found


def weights(inputs: Inputs, dtype: torch.dtype) -> Tensor:
    """Fixed weights [B T] of the summed log-probabilities whose gradient is compared."""
    draw = np.random.default_rng(5).standard_normal(tuple(inputs.completion_ids.shape))
    return torch.from_numpy(draw).to(dtype)


def plain(policy: Policy, inputs: Inputs, *, temperature: float = 1.0, rows: Tensor | None = None) -> Outcome:
    """Log-probabilities, entropies and gradients, one row at a time through transformers."""
    model = plain_model(policy)
    dtype = next(policy.parameters()).dtype
    weight = weights(inputs, dtype)
    logprobs, entropy = torch.zeros_like(weight), torch.zeros_like(weight)
    for row in range(len(inputs.lengths)):
        length = int(inputs.lengths[row])
        if length == 0 or (rows is not None and not rows[row]):
            continue
        log_p = torch.log_softmax(plain_logits(model, policy, inputs, row) / temperature, dim=-1)
        chosen = log_p.gather(-1, inputs.completion_ids[row, :length, None])[:, 0]
        spread = -(log_p.exp() * log_p).sum(-1)
        ((chosen + 0.3 * spread) * weight[row, :length]).sum().backward()
        logprobs[row, :length], entropy[row, :length] = chosen.detach(), spread.detach()
    return Outcome(logprobs=logprobs, entropy=entropy, grads=_grads(model))


def shared(
    policy: Policy, inputs: Inputs, *, temperature: float = 1.0, rows: Tensor | None = None
) -> Outcome:
    """The same from the policy's own forward."""
    policy.zero_grad()
    stats: TokenStats = policy(inputs, CLEAN, temperature=temperature, rows=rows)
    weight = weights(inputs, stats.logprobs.dtype)
    if stats.logprobs.requires_grad:
        ((stats.logprobs + 0.3 * stats.entropy) * weight).sum().backward()
    return Outcome(
        logprobs=stats.logprobs.detach(), entropy=stats.entropy.detach(), grads=_grads(policy.model)
    )


def _grads(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
    }


def distance(found: dict[str, Tensor], wanted: dict[str, Tensor], *, only: str = "") -> float:
    """Relative L2 distance of two gradients over the parameters whose name holds `only`."""
    assert found.keys() == wanted.keys()
    names = [name for name in wanted if only in name]
    off = sum(float((found[name] - wanted[name]).double().square().sum()) for name in names)
    whole = sum(float(wanted[name].double().square().sum()) for name in names)
    return float((off / whole) ** 0.5) if whole else float(off**0.5)


def close(found: Outcome, wanted: Outcome, *, logprobs: float = 5e-6, grads: float = 1e-5) -> bool:
    """Within the bounds, over all parameters and over the vision tower alone (its gradients are smaller)."""
    gaps = {
        "log-probs": float((found.logprobs - wanted.logprobs).abs().max()) / logprobs,
        "entropy": float((found.entropy - wanted.entropy).abs().max()) / (2 * logprobs),
        "gradients": distance(found.grads, wanted.grads) / grads,
        "vision gradients": distance(found.grads, wanted.grads, only="visual") / (2 * grads),
    }
    print({name: f"{gap:.3g} of the bound" for name, gap in gaps.items()})
    return max(gaps.values()) <= 1


def edited(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy whose config has other values; `text` changes those of the text model."""
    copy = shutil.copytree(folder, to)
    config = json.loads((copy / "config.json").read_text())
    config["text_config"] |= changes.pop("text", {})
    (copy / "config.json").write_text(json.dumps(config | changes))
    return copy


def windowed(folder: Path, to: Path, window: int) -> Path:
    """A copy whose second of two text layers looks back at so many tokens, itself counted."""
    text = {
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": window,
        "use_sliding_window": True,
    }
    return edited(folder, to, text=text)


@contextmanager
def restored(policy: Policy) -> Iterator[None]:
    """Afterwards the policy is as it was: a test may change its weights and how it runs."""
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    yield
    policy.attention_path = "split"
    policy.use_linears(PLAIN)
    policy.held.clear()
    policy.zero_grad()
    policy.model.load_state_dict(before)


def hold(policy: Policy, *rows: Sequence[Problem]) -> None:
    """Run prompts as the sampler does, one packed row each."""
    for row in rows:
        policy.prefill([policy.processor.encode(of) for of in row], hold=True)


def update(policy: Policy, inputs: Inputs, parts: Sequence[Tensor] | None = None) -> Outcome:
    """`shared` over micro-batches, with the backward of what is held."""
    policy.zero_grad()
    logprobs = torch.zeros_like(inputs.sampled_logprobs, dtype=next(policy.parameters()).dtype)
    entropy = torch.zeros_like(logprobs)
    weight = weights(inputs, logprobs.dtype)
    every = torch.arange(len(inputs.lengths))
    for part in [every] if parts is None else parts:
        stats = policy(inputs, CLEAN, rows=torch.isin(every, part))
        ((stats.logprobs + 0.3 * stats.entropy) * weight).sum().backward()
        logprobs[part], entropy[part] = stats.logprobs[part].detach(), stats.entropy[part].detach()
    policy.held.backward()
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in policy.model.named_parameters()
    }
    return Outcome(logprobs=logprobs, entropy=entropy, grads=grads)
