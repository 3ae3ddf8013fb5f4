"""Log-probabilities and entropies of tokens from hidden states, in chunks: [B T V] never exists at once."""

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.ranges import HEAD, spanned

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once (64 MiB in float32); a smaller problem keeps its probabilities for the backward,
instead of making them again."""

DEVICE_CHUNK_ELEMENTS = 1 << 28
"""The same off the CPU (1 GiB): at 150k words small chunks would be products of a hundred rows."""


@spanned(HEAD)
def token_stats(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of its distribution, both [n] in nats and float32.

    With logits z = (hidden weight^T + bias) / temperature: l = z_y - logsumexp(z), H = -sum_v p_v log p_v.
    The gradients are dl/dz_v = [v = y] - p_v and dH/dz_v = -p_v (log p_v + H).

    hidden: [n, H]; weight: [V, H]; targets: [n].
    """
    logprobs, entropy = _TokenStats.apply(hidden, weight, bias, targets, 1.0 / temperature)  # type: ignore[no-untyped-call]
    return logprobs, entropy


@spanned(HEAD)
def log_distributions(hidden: Tensor, weight: Tensor, bias: Tensor | None, *, temperature: float) -> Tensor:
    """Full log-distributions [n, V] of a few tokens, with ordinary autograd."""
    return _log_p(hidden, weight, bias, 1.0 / temperature)


def _log_p(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    logits = _wide(F.linear(hidden, weight, bias))
    return torch.log_softmax(logits if scale == 1 else logits * scale, dim=-1)


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


class _TokenStats(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        rows, words = hidden.shape[0], weight.shape[0]
        held = CHUNK_ELEMENTS if hidden.device.type == "cpu" else DEVICE_CHUNK_ELEMENTS
        step = max(1, held // words)
        keep = rows <= step and (hidden.requires_grad or weight.requires_grad)
        kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logprobs = torch.empty(rows, dtype=kind, device=hidden.device)
        entropy = torch.empty_like(logprobs)
        kept = None
        for start in range(0, rows, step):
            part = slice(start, start + step)
            log_p = _log_p(hidden[part], weight, bias, scale)
            logprobs[part] = log_p.gather(-1, targets[part, None])[:, 0]
            entropy[part] = -log_p.exp().mul_(log_p).sum(-1)
            kept = log_p if keep else None
        ctx.save_for_backward(hidden, weight, bias, targets, entropy, kept)
        ctx.scale, ctx.step = scale, step
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    @spanned(HEAD)
    def backward(ctx, grad_logprobs, grad_entropy):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN205
        hidden, weight, bias, targets, entropy, kept = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # Sums over chunks in 16 bits would lose what each adds.
        wide = weight.dtype.itemsize == 2 and hidden.shape[0] > ctx.step
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight, dtype=torch.float32 if wide else None)
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for start in range(0, hidden.shape[0], ctx.step):
            part = slice(start, start + ctx.step)
            log_p = kept
            if log_p is None:
                log_p = _log_p(hidden[part], weight, bias, ctx.scale)
            # In place: on a CPU the time of this loop is that of fresh memory.
            slope = log_p.exp()
            if grad_entropy is not None:
                factor = (log_p + entropy[part, None]).mul_(grad_entropy[part, None])
                slope.mul_(factor.add_(grad_logprobs[part, None]) if grad_logprobs is not None else factor)
            else:
                slope.mul_(grad_logprobs[part, None])
            if grad_logprobs is not None:
                slope.scatter_add_(-1, targets[part, None], -grad_logprobs[part, None])
            slope = slope.mul_(-ctx.scale).to(hidden.dtype)
            grad_hidden[part] = slope @ weight
            if grad_weight is not None and wide:
                grad_weight += slope.t() @ hidden[part]
            elif grad_weight is not None:
                grad_weight.addmm_(slope.t(), hidden[part])
            if grad_bias is not None:
                grad_bias += slope.sum(0)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None
