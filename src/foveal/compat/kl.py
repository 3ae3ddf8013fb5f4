"""KL estimators under the names of the official codes, and AReaL's clamps."""

from jaxtyping import Float
from torch import Tensor

from foveal.objectives.terms import KL_VALUE_LIMIT, Estimator, exact_kl, kl_estimate
from foveal.spec import FovealError

NAMES: dict[str, Estimator] = {
    "kl": "k1",
    "k1": "k1",
    "abs": "abs",
    "mse": "k2",
    "k2": "k2",
    "low_var_kl": "k3",
    "k3": "k3",
}
"""PAPO's and verl's names, and the library's."""


def official_kl(logprobs: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"], *, name: str) -> Tensor:
    """KL(p || q) by PAPO's and verl's name of the estimator; "full" takes full log-distributions [.. V].

    A name that ends with "+" (verl) has the estimator's value and the gradient of k2 on log p and log q,
    which is that of the KL in expectation: k2 - sg(k2) + sg(value).

    Differs from verl at b178a3cd, which knows the "+" only in its documentation, and from PAPO, which casts
    to float32 first.
    Raises: FovealError for another name.
    """
    if name == "full":
        return exact_kl(logprobs, other)
    plain = name.removesuffix("+")
    if plain not in NAMES:
        raise FovealError(f"KL estimator {name!r} is unknown; use one of {', '.join(NAMES)} or 'full'")
    value = kl_estimate(logprobs, other, estimator=NAMES[plain])
    if plain == name or NAMES[plain] == "k2":
        return value
    through = kl_estimate(logprobs, other, estimator="k2")
    return through - through.detach() + value.detach()


def areal_kl(
    logprobs: Float[Tensor, "*shape"], other: Float[Tensor, "*shape"], *, estimator: Estimator
) -> Float[Tensor, "*shape"]:
    """AReaL's k1, k2 and k3, their VALUE clamped to +-10 (gradient 0 beyond).

    Differs from the library, which clamps k3 alone (there the two are equal: its inner clamp acts where the
    value is clamped already), and from AReaL, which casts to float32 first.
    Raises: FovealError for another estimator.
    """
    if estimator == "abs":
        raise FovealError(f"AReaL has no KL estimator {estimator!r}; use 'k1', 'k2' or 'k3'")
    return kl_estimate(logprobs, other, estimator=estimator).clamp(-KL_VALUE_LIMIT, KL_VALUE_LIMIT)
