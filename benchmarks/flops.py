"""Multiplications of a step: what they must be, by a closed formula, and a counter of what they are.

The floor of a GRPO step is each picture and prompt once for all completions of its group, in sampling and
again in the update, and each completion token once. Of a prompt only its last token's state is read: the last
layer makes keys and values of the others, and no more. A multiply-add is 2 FLOPs. Only matrix products count,
as in torch's FlopCounterMode; attention over P tokens is P^2 pairs whether or not it is causal, since that is
how kernels are counted, and its backward is five products for the forward's two, as in torch's own formulas:
a flash kernel makes the probabilities again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from foveal.policy.products import CHECKED

BACKWARD = 2
"""A linear layer's backward: gradients of its input and of its weight, each one product."""

ATTENTION_FORWARD, ATTENTION_BACKWARD = 2, 5
"""Products of [P, d] with [d, P]."""


@dataclass(frozen=True, kw_only=True)
class Widths:
    """The sizes of a Qwen2.5-VL that its matrix products depend on."""

    patch: int
    """Numbers in one patch."""
    merge: int
    """Patches of a side that become one visual token."""
    window: int
    """Side of a vision window, in visual tokens."""
    vision: int
    vision_inner: int
    vision_layers: int
    vision_full: int
    """Vision layers that attend to the whole picture."""
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    """Size of one text head."""
    vocabulary: int

    @staticmethod
    def of(config: Any) -> "Widths":  # noqa: ANN401
        """From the model's config."""
        eye, text = config.vision_config, config.text_config
        full = set(eye.fullatt_block_indexes) & set(range(eye.depth))
        return Widths(
            patch=eye.in_channels * eye.temporal_patch_size * eye.patch_size**2,
            merge=eye.spatial_merge_size,
            window=eye.window_size // eye.patch_size // eye.spatial_merge_size,
            vision=eye.hidden_size,
            vision_inner=eye.intermediate_size,
            vision_layers=eye.depth,
            vision_full=len(full),
            hidden=text.hidden_size,
            inner=text.intermediate_size,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            vocabulary=text.vocab_size,
        )


@dataclass(frozen=True, kw_only=True)
class GroupShape:
    """One prompt with its pictures, and the completions behind it."""

    prompt: int
    """Tokens, visual ones counted."""
    grids: tuple[tuple[int, int, int], ...]
    """Patches of each picture: time, height, width."""
    completions: tuple[int, ...]
    """Tokens of each completion."""

    @property
    def fed(self) -> tuple[int, ...]:
        """Tokens of each completion that the model reads: the last one predicts nothing."""
        return tuple(max(0, length - 1) for length in self.completions)


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOPs of a forward, by what their backward costs."""

    linear: int = 0
    attention: int = 0
    stem: int = 0
    """Linear layers whose input needs no gradient: the patch embedding."""

    def __add__(self, other: "Work") -> "Work":
        return Work(
            linear=self.linear + other.linear,
            attention=self.attention + other.attention,
            stem=self.stem + other.stem,
        )

    @property
    def forward(self) -> int:
        return self.linear + self.attention + self.stem

    @property
    def backward(self) -> int:
        return (
            BACKWARD * self.linear
            + self.attention * ATTENTION_BACKWARD // ATTENTION_FORWARD
            + (BACKWARD - 1) * self.stem
        )


def vision(widths: Widths, grid: tuple[int, int, int]) -> Work:
    """The vision tower and merger on one picture."""
    time, height, width = grid
    patches, wide = time * height * width, widths.vision
    layer = 4 * wide**2 + 3 * wide * widths.vision_inner
    merged = patches // widths.merge**2
    joined = wide * widths.merge**2
    windowed = widths.vision_layers - widths.vision_full
    pairs = time * (
        widths.vision_full * (height * width) ** 2 + windowed * _window_pairs(widths, height, width)
    )
    return Work(
        linear=2 * (widths.vision_layers * patches * layer + merged * joined * (joined + widths.hidden)),
        attention=2 * ATTENTION_FORWARD * pairs * wide,
        stem=2 * patches * widths.patch * wide,
    )


def _window_pairs(widths: Widths, height: int, width: int) -> int:
    """Pairs of patches within the windows of one frame; those at its right and lower edges may be smaller."""
    high = _pieces(height // widths.merge, widths.window)
    wide = _pieces(width // widths.merge, widths.window)
    return sum((a * b * widths.merge**2) ** 2 for a in high for b in wide)


def _pieces(length: int, size: int) -> list[int]:
    return [min(size, length - start) for start in range(0, length, size)]


def text(widths: Widths, *, positions: int, pairs: int, read: int, read_pairs: int) -> Work:
    """The text layers on so many positions, which look at so many pairs of tokens; `read` is the number of
    states that the last layer gives, `read_pairs` the pairs that these look at."""
    queries, keys = widths.heads * widths.head, widths.kv_heads * widths.head
    kept = widths.hidden * 2 * keys
    rest = widths.hidden * 2 * queries + 3 * widths.hidden * widths.inner
    before = widths.layers - 1
    return Work(
        linear=2 * (widths.layers * positions * kept + (before * positions + read) * rest),
        attention=2 * ATTENTION_FORWARD * (before * pairs + read_pairs) * queries,
    )


def head(widths: Widths, places: int) -> Work:
    """The vocabulary's logits in so many places."""
    return Work(linear=2 * places * widths.hidden * widths.vocabulary)


def shared(widths: Widths, group: GroupShape) -> Work:
    """One pass over a group: its prompt once, each completion behind it, the head on completion tokens."""
    found = prompt(widths, group)
    fed = sum(group.fed)
    pairs = sum(length * (group.prompt + length) for length in group.fed)
    found += text(widths, positions=fed, pairs=pairs, read=fed, read_pairs=pairs)
    return found + head(widths, sum(group.completions))


def prompt(widths: Widths, group: GroupShape) -> Work:
    """A group's prompt and its pictures."""
    size = group.prompt
    found = text(widths, positions=size, pairs=size**2, read=1, read_pairs=size)
    for grid in group.grids:
        found += vision(widths, grid)
    return found


def prompts(widths: Widths, groups: Iterable[GroupShape]) -> int:
    """The forward of prompts and their pictures alone: what an update over held prompts does not do."""
    return sum(prompt(widths, group).forward for group in groups)


def recorded(widths: Widths, groups: Iterable[GroupShape]) -> int:
    """What an update over recorded products does not do, if it runs these groups in one row: linear layers on
    completion tokens, but for the few that check them."""
    fed = sum(length for group in groups for length in group.fed)
    saved = fed - min(CHECKED, fed)
    return text(widths, positions=saved, pairs=0, read=saved, read_pairs=0).forward


def sampling(widths: Widths, groups: Iterable[GroupShape]) -> int:
    """Drawing the completions: the prompt once, then token by token over the keys so far."""
    total = 0
    for group in groups:
        fed = sum(group.fed)
        pairs = sum(length * group.prompt + length * (length + 1) // 2 for length in group.fed)
        found = prompt(widths, group) + text(widths, positions=fed, pairs=pairs, read=fed, read_pairs=pairs)
        total += (found + head(widths, sum(group.completions))).forward
    return total


def no_gradient_pass(widths: Widths, groups: Iterable[GroupShape]) -> int:
    """One shared forward."""
    return sum(shared(widths, group).forward for group in groups)


def gradient_pass(widths: Widths, groups: Iterable[GroupShape]) -> int:
    """One shared forward and backward, all weights trained."""
    works = [shared(widths, group) for group in groups]
    return sum(work.forward + work.backward for work in works)


def floor(widths: Widths, groups: Iterable[GroupShape]) -> int:
    """A GRPO step: sampling and one gradient pass."""
    groups = list(groups)
    return sampling(widths, groups) + gradient_pass(widths, groups)


def group_shapes(inputs: Any, rows: Any = None) -> list[GroupShape]:  # noqa: ANN401
    """Shapes of a batch, of the completions in `rows` (Bool [B]) alone where given; groups without one are
    left out."""
    completions: dict[int, list[int]] = {}
    owners, lengths = inputs.prompt_index.tolist(), inputs.lengths.tolist()
    for row, (owner, length) in enumerate(zip(owners, lengths, strict=True)):
        if rows is None or bool(rows[row]):
            completions.setdefault(owner, []).append(length)
    return [
        GroupShape(
            prompt=len(inputs.prompts[owner].token_ids),
            grids=tuple((t, h, w) for t, h, w in inputs.prompts[owner].grids.tolist()),
            completions=tuple(found),
        )
        for owner, found in completions.items()
    ]


def counter() -> Any:  # noqa: ANN401
    """A FlopCounterMode that also knows the CPU's flash kernels, products in place and oneDNN's linear."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

    def flash(query: Any, key: Any, *args: object, out_shape: object = None, **kw: object) -> int:  # noqa: ANN401
        return 2 * ATTENTION_FORWARD * _pairs(query, key)

    def flash_backward(grad: object, query: Any, key: Any, *args: object, **kw: object) -> int:  # noqa: ANN401
        return 2 * ATTENTION_BACKWARD * _pairs(query, key)

    def product(total: object, left: Any, right: Any, *args: object, **kw: object) -> int:  # noqa: ANN401
        return 2 * int(left[0] * left[1] * right[1])

    def linear(x: Any, weight: Any, *args: object, **kw: object) -> int:  # noqa: ANN401
        rows = 1
        for size in x[:-1]:
            rows *= size
        return 2 * int(rows * weight[0] * weight[1])

    aten = torch.ops.aten
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: flash,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: flash_backward,
        aten.addmm_: product,
    }
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        formulas[torch.ops.mkldnn._linear_pointwise] = linear
    for operator, formula in formulas.items():
        if operator not in flop_registry:
            register_flop_formula(operator)(formula)
    return FlopCounterMode(display=False)


def _pairs(query: Any, key: Any) -> int:  # noqa: ANN401
    """Pairs of a query and a key, times the size of a head."""
    return int(query[0] * query[1] * query[2] * key[2] * query[3])
