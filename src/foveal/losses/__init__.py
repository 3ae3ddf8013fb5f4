"""The loss of every method as a plain function on tensors, for a training loop of one's own.

Log-probabilities in, the loss and what is worth logging out; nothing else of this library is needed:

    advantages = foveal.losses.group_advantages(rewards, group_size=8)
    loss, measures = foveal.losses.papo(
        logprobs, old_logprobs, advantages, completion_mask, removed_logprobs=removed, kl_prcp_coef=0.02
    )
    loss.backward()

Axes: B completions (those of a problem next to each other), T completion tokens (padded to the right), V
vocabulary. Log-probabilities, entropies and divergences are in nats. Gradient flows into `logprobs`, and into
those of other views where the method says so; everything else is a constant. Tokens outside
`completion_mask` are not read: padding may hold NaN.

The functions run the objectives of `foveal.objectives` on these tensors, so a loop of one's own and the
trainer make the same number. `measures` has the names of docs/metrics.md.

`counts`: where the rows are a micro-batch, the tokens and sequences of the whole mini-batch for each term, so
that losses of micro-batches add up to that of the mini-batch; by default the rows are all there is. For most
terms that is `{"surrogate": foveal.losses.count(whole_mask)}`; an error names those that are missing.
"""

from foveal.losses.carriers import Loss
from foveal.losses.helpers import TokenValues, from_logits, group_advantages, reinforce_pp_advantages
from foveal.losses.perception import cppo, dvrp, noisy_rollout, papo, perception_reward, vppo
from foveal.losses.surrogates import cispo, dapo, dr_grpo, grpo, gspo, reinforce_pp, rloo
from foveal.objectives.cppo import perception_tokens
from foveal.objectives.dapo import overlong_penalty
from foveal.objectives.terms import count
from foveal.types import Count

__all__ = [
    "Count",
    "Loss",
    "TokenValues",
    "cispo",
    "count",
    "cppo",
    "dapo",
    "dr_grpo",
    "dvrp",
    "from_logits",
    "group_advantages",
    "grpo",
    "gspo",
    "noisy_rollout",
    "overlong_penalty",
    "papo",
    "perception_reward",
    "perception_tokens",
    "reinforce_pp",
    "reinforce_pp_advantages",
    "rloo",
    "vppo",
]
