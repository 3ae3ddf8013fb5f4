"""GRPO, PAPO and CPPO on six tokens, without a model: what each returns, and where its gradient goes.

python examples/01_objectives_by_hand.py
"""

import torch

from foveal.objectives.cppo import CPPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.papo import PAPO
from foveal.objectives.terms import aggregate, count
from foveal.types import Batch, Inputs, Objective, Scores, TokenStats, ViewScores

# Two completions of one problem, three tokens each; the first was right (reward 1).
mask = torch.ones(2, 3, dtype=torch.bool)
sampled = torch.tensor([[-0.5, -1.0, -0.2], [-0.7, -0.9, -0.4]])
inputs = Inputs(
    prompts=(),
    prompt_index=torch.tensor([0, 0]),
    completion_ids=torch.zeros(2, 3, dtype=torch.long),
    completion_mask=mask,
    sampled_logprobs=sampled,
    rewards=torch.tensor([1.0, 0.0]),
    correct=torch.tensor([True, False]),
    lengths=torch.tensor([3, 3]),
    truncated=torch.tensor([False, False]),
    vision={},
)

# With the picture hidden the second token of each completion becomes much less likely: it needs the picture.
clean = ViewScores(logprobs=sampled, entropy=torch.full((2, 3), 0.5))
removed = ViewScores(
    logprobs=sampled + torch.tensor([[0.0, -2.0, 0.0], [0.0, -1.0, 0.0]]),
    entropy=torch.tensor([[0.5, 1.4, 0.5], [0.5, 1.1, 0.5]]),
)
scores = Scores(old_logprobs=sampled, ref_logprobs=None, views={"clean": clean, "removed": removed})


def running(logprobs: torch.Tensor, entropy: torch.Tensor) -> TokenStats:
    """One view as the running policy sees it; here the log-probabilities themselves are the parameters."""
    leaf = logprobs.clone().requires_grad_()
    return TokenStats(logprobs=leaf, entropy=entropy, log_probs_at=lambda chosen: leaf[chosen][:, None])


def show(name: str, objective: Objective) -> None:
    """Terms, loss, and the gradient of the loss on each token's log-probability."""
    batch = objective.prepare(Batch(inputs=inputs, scores=scores, advantages=objective.advantages(inputs)))
    now = {
        "clean": running(clean.logprobs, clean.entropy),
        "removed": running(removed.logprobs, removed.entropy),
        "preserved": running(sampled + 0.05, clean.entropy),
    }
    counts = {term: count(chosen) for term, chosen in objective.masks(batch).items()}
    terms = objective.terms(batch, now)
    values = {
        t.name: aggregate(t.per_token, t.mask, aggregation=objective.aggregation, count=counts[t.name])
        for t in terms
    }
    loss = sum(t.coef * values[t.name] for t in terms)
    loss.backward()
    print(f"{name}: loss {loss.item():+.4f} =", "  ".join(f"{t.coef:+g} * {t.name}" for t in terms))
    for view in objective.update_views:
        grad = now[view].logprobs.grad
        shown = [[round(x, 4) + 0.0 for x in row] for row in grad.tolist()] if grad is not None else "none"
        print(f"    gradient in {view:9s} {shown}")


show("GRPO", GRPO())
show("PAPO, removed view scored", PAPO(kl_prcp_coef=0.1))
show("PAPO, removed view with gradient", PAPO(kl_prcp_coef=0.1, removed_gradient=True))
# At the published tau of 0.1 two nats between the views leave nothing to learn; 1.0 shows the gradient.
show("CPPO", CPPO(cpl_coef=0.1, tau=1.0))
