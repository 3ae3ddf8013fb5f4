"""Objectives: what is optimised, as named per-token terms over views. One file each; `terms.py` has the
shared maths."""

REGISTRY: dict[str, str] = {
    "grpo": "foveal.objectives.grpo:GRPO",
    "dapo": "foveal.objectives.dapo:DAPO",
    "dr_grpo": "foveal.objectives.dr_grpo:DrGRPO",
    "rloo": "foveal.objectives.rloo:RLOO",
    "reinforce_pp": "foveal.objectives.reinforce_pp:ReinforcePP",
    "gspo": "foveal.objectives.gspo:GSPO",
    "cispo": "foveal.objectives.cispo:CISPO",
    "papo": "foveal.objectives.papo:PAPO",
    "cppo": "foveal.objectives.cppo:CPPO",
    "vppo": "foveal.objectives.vppo:VPPO",
    "noisy_rollout": "foveal.objectives.noisy_rollout:NoisyRollout",
    "dvrp": "foveal.objectives.dvrp:DVRP",
    "perception_reward": "foveal.objectives.perception_reward:PerceptionReward",
}
"""Short names of the shipped objectives; strings, so that nothing is imported that is not used."""
