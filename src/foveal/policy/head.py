"""Log-probabilities and entropies of tokens from hidden states, in chunks: [B T V] never exists at once."""

import torch
from torch import Tensor

from foveal.policy.linears import PLAIN, Linears, fits, linear
from foveal.policy.vocabulary import HeadPath, line, sloped, summed, wide
from foveal.ranges import HEAD, spanned

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once (64 MiB in float32); a smaller problem keeps them for the backward, instead of making
them again."""

DEVICE_CHUNK_ELEMENTS = 1 << 28
"""The same off the CPU (1 GiB): at 150k words small chunks would be products of a hundred rows."""


@spanned(HEAD)
def token_stats(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    temperature: float,
    path: HeadPath = "plain",
    linears: Linears = PLAIN,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, both [n] in nats and float32.

    With logits z = (hidden weight^T + bias) / temperature: l = z_y - logsumexp(z), H = -sum_v p_v log p_v.
    The gradients are dl/dz_v = [v = y] - p_v and dH/dz_v = -p_v (log p_v + H).

    hidden: [n, H]; weight: [V, H]; targets: [n]. `path` is how all but the matrix products runs.
    """
    logprobs, entropy = _TokenStats.apply(  # type: ignore[no-untyped-call]
        hidden,
        weight,
        bias,
        targets,
        1.0 / temperature,
        path,
        linears if fits(hidden, weight, bias) else PLAIN,
    )
    return logprobs, entropy


@spanned(HEAD)
def log_distributions(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, *, temperature: float, linears: Linears = PLAIN
) -> Tensor:
    """Full log-distributions [n, V] of a few tokens, with ordinary autograd."""
    logits = wide(linear(hidden, weight, bias, linears))
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


class _TokenStats(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, scale, path, linears):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        rows, words = hidden.shape[0], weight.shape[0]
        held = CHUNK_ELEMENTS if hidden.device.type == "cpu" else DEVICE_CHUNK_ELEMENTS
        step = max(1, held // words)
        keep = rows <= step and (hidden.requires_grad or weight.requires_grad)
        kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        sums = torch.empty(4, rows, 1, dtype=kind, device=hidden.device)
        kept = None
        for start in range(0, rows, step):
            part = slice(start, start + step)
            logits = linears.product(hidden[part], weight, bias)
            logits, sums[:, part] = summed(logits, targets[part], scale=scale, path=path)
            kept = logits if keep else None
        ctx.save_for_backward(hidden, weight, bias, targets, sums, kept)
        ctx.scale, ctx.step, ctx.path, ctx.linears = scale, step, path, linears
        ctx.set_materialize_grads(False)
        _, total, mean, drawn = sums[..., 0]
        return drawn - total.log(), total.log() - mean

    @staticmethod
    @spanned(HEAD)
    def backward(ctx, grad_logprobs, grad_entropy):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        hidden, weight, bias, targets, sums, kept = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # Sums over chunks in 16 bits would lose what each adds.
        wider = weight.dtype.itemsize == 2 and hidden.shape[0] > ctx.step
        # A product of its own for each of many chunks would be one more [V H] in memory and its sum.
        apart = ctx.linears.weight_grad and hidden.shape[0] <= ctx.step
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight, dtype=torch.float32 if wider else None)
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        given = line(grad_logprobs, grad_entropy, sums, scale=ctx.scale)
        for start in range(0, hidden.shape[0], ctx.step):
            part = slice(start, start + ctx.step)
            logits = ctx.linears.product(hidden[part], weight, bias) if kept is None else kept
            how = {"scale": ctx.scale, "kept": kept is not None, "dtype": hidden.dtype, "path": ctx.path}
            slope = sloped(logits, targets[part], sums[0, part], given.of(part), **how)
            grad_hidden[part] = ctx.linears.grad_of_input(slope, weight)
            if grad_weight is not None and (wider or apart):
                grad_weight += ctx.linears.grad_of_weight(slope, hidden[part])
            elif grad_weight is not None:
                grad_weight.addmm_(slope.t(), hidden[part])
            if grad_bias is not None:
                grad_bias += slope.sum(0)
            # Else a chunk's would be there while the next one's are made.
            del logits, slope
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None
