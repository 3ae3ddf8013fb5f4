"""Published settings of the methods' own fields, by name; rollout and optimizer settings are in `configs/`.

`[objective] type = "papo"`, `preset = "g_3b"` fills in what the table does not say itself.
"""

import math
from collections.abc import Mapping
from typing import Any

from foveal.spec import ConfigError

_PAPO_BASE: Mapping[str, Any] = {
    "type": "grpo",
    "clip_low": 0.2,
    "clip_high": 0.3,
    "dual_clip": 3.0,
    "aggregation": "token_mean",
}
_PAPO_G = {**_PAPO_BASE, "kl_coef": 0.01}
_PAPO_D = {**_PAPO_BASE, "type": "dapo", "clip_high": 0.28, "kl_coef": 0.0}
_CPPO_BASE = {**_PAPO_BASE, "clip_high": 0.2}
_DOUBLE_ENTROPY = {"entropy_coef": 0.03, "removed_entropy_coef": 0.03}

_DVRP = {"sensitivity_coef": 0.01, "robustness_coef": 0.01, "views_entropy_coef": 0.05}


def _penalised(coef: float) -> Mapping[str, Any]:
    """DAPO with the sampled tokens' negative log-likelihood as a cost: PAPO's entropy term without its
    kl_prcp."""
    return {"type": "papo", "kl_prcp_coef": 0.0, "entropy_coef": coef, "base": _PAPO_D}


PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    # arXiv:2507.06448v5 section 4 and Tables 1, 4, 5, 8, 11; scripts of MikeWangWZHL/PAPO.
    "papo": {
        "g_3b": {"kl_prcp_coef": 0.02, "base": _PAPO_G},
        "g_7b": {
            "kl_prcp_coef": 0.02,
            "entropy_coef": 0.05,
            "removed_entropy_coef": 0.05,
            "base": _PAPO_G,
        },
        "g_7b_no_entropy": {"kl_prcp_coef": 0.01, "base": _PAPO_G},
        "g_no_ref": {"kl_prcp_coef": 0.01, **_DOUBLE_ENTROPY, "base": {**_PAPO_BASE, "kl_coef": 0.0}},
        "d": {"kl_prcp_coef": 0.01, **_DOUBLE_ENTROPY, "base": _PAPO_D},
    },
    # arXiv:2601.00501; "verl" and "areal" are the two official codes (vbdi/cppo), "ours" is the paper's text.
    "cppo": {
        "ours": {
            "score": "absolute",
            "rounding": "floor",
            "divergence": "exact",
            "select_in": "scoring",
            "base": {**_CPPO_BASE, "kl_coef": 0.01},
        },
        "verl": {
            "score": "relative",
            "rounding": "floor",
            "divergence": "k3",
            "k1_limit": math.inf,
            "select_in": "update",
            "candidates": "all_places",
            "base": {**_CPPO_BASE, "kl_coef": 0.01},
        },
        "areal": {
            "score": "relative",
            "rounding": "ceil",
            "divergence": "k1",
            "k1_limit": 10.0,
            "select_in": "update",
            # eps_clip 0.4 either way, no reference KL, no dual clip.
            "base": {
                "type": "grpo",
                "clip_low": 0.4,
                "clip_high": 0.4,
                "aggregation": "token_mean",
            },
        },
    },
    # arXiv:2510.09285; scripts of huaixuheqing/VPPO-RL (7B, and the later 8B). The entropy penalty is in
    # their DAPO baseline too.
    "vppo": {
        "7b": {"token_fraction": 0.4, "scale_min": 0.9, "base": _penalised(0.06)},
        "8b": {"token_fraction": 0.4, "scale_min": 0.9, "base": _penalised(0.12)},
    },
    # arXiv:2504.13055; scripts of John-AI-Lab/NoisyRollout. Its sets differ in the noise alone, which is the
    # perturbation's: strength 500, steepness 30 (Geometry3K) or 450, 60 (K12).
    "noisy_rollout": {
        "7b": {
            "fraction": 0.5,
            "base": {"type": "grpo", "entropy_bonus_coef": 1e-3, "aggregation": "token_mean"},
        },
    },
    # arXiv:2601.06801, as re-implemented in zsxm1998/awesome-perception-aware-rlvr: clip ranges and dual clip
    # are that code's, as the paper gives none.
    "dvrp": {
        "g": {**_DVRP, "base": _PAPO_BASE},
        "d": {**_DVRP, "base": _PAPO_D},
    },
}
"""For each method its presets: keys of its table. Both sizes share "g_no_ref" and "d"."""


def with_preset(table: Mapping[str, Any], *, method: str) -> dict[str, Any]:
    """The table with what its `preset` fills in; what it says itself wins, in the tables of bases too.

    A `base` of another type, or one that is built already, replaces the preset's as a whole. The name is left
    out: in a run's own config, where what is unset is not written, it would fill in anew.
    Raises: ConfigError for an unknown preset, with the known ones.
    """
    own = {key: value for key, value in table.items() if key != "preset"}
    name = table.get("preset")
    if name is None:
        return own
    known = PRESETS.get(method, {})
    if not isinstance(name, str) or name not in known:
        have = ", ".join(known) or "none for this method"
        raise ConfigError(f"{method} has no preset {name!r}; known: {have}; change objective.preset")
    return _filled(known[name], own)


def _filled(published: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    found = {**published, **own}
    base, mine = published.get("base"), own.get("base")
    if isinstance(base, Mapping) and mine is not None:
        table = {"type": mine} if isinstance(mine, str) else mine
        if isinstance(table, Mapping) and table.get("type", base.get("type")) == base.get("type"):
            found["base"] = _filled(base, table)
    return found
