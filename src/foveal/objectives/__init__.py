"""Objectives: what is optimised, as named per-token terms over views. One file each; `terms.py` has the
shared maths."""

REGISTRY: dict[str, str] = {
    "grpo": "foveal.objectives.grpo:GRPO",
    "dapo": "foveal.objectives.dapo:DAPO",
    "papo": "foveal.objectives.papo:PAPO",
    "cppo": "foveal.objectives.cppo:CPPO",
}
"""Short names of the shipped objectives; strings, so that nothing is imported that is not used."""
