"""What the collapse guard watches: the signs of a collapse, and the words that tell of them.

Source: arXiv:2507.06448v5 section 5.3 and appendices J and M name the signs; floors and units are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["looking", "policy", "text", "outcome"]


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A metric, or the sum of several, and the direction in which it goes when a run collapses."""

    name: str
    metrics: tuple[str, ...]
    rises: bool
    kind: Kind
    words: str
    floor: float = 0.0
    """Least spread of a share, which has a natural unit; 0 where the unit is open."""
    unit: str = ""
    """A metric that gives the natural unit of one whose level may be 0 or negative."""
    whole: bool = False
    """A share that is 1 when all is well: its level is what it lacks to 1."""
    alone: bool = True
    """Whether an outcome can be an alarm by itself: a policy that learns leaves its reference."""
    share: bool = False
    """Told in per cent."""
    past: str = "usually"
    """What it is held against."""

    def tell(self, now: float, usual: float) -> str:
        """What was seen, in words."""
        one, other = (f"{100 * x:.2f} %" if self.share else f"{x:.3g}" for x in (now, usual))
        return f"{self.words} is {one} ({self.past} {other})"


SIGNS: tuple[Sign, ...] = (
    Sign(name="kl_prcp", metrics=("kl_prcp/mean",), rises=True, kind="looking", words="kl_prcp"),
    Sign(
        name="kl_prcp_variance",
        metrics=("kl_prcp/variance",),
        rises=True,
        kind="looking",
        words="the variance of kl_prcp",
    ),
    Sign(
        name="kl_prcp_tail",
        metrics=("kl_prcp/tail_fraction",),
        rises=True,
        kind="looking",
        words="the tail share of kl_prcp",
        floor=0.0025,
        share=True,
    ),
    Sign(
        name="removed_kl",
        metrics=("perception/removed_kl",),
        rises=True,
        kind="looking",
        words="the KL to the removed view",
    ),
    Sign(name="entropy", metrics=("policy/entropy",), rises=True, kind="policy", words="the entropy"),
    Sign(
        name="removed_entropy",
        metrics=("policy/entropy", "perception/entropy_shift"),
        rises=True,
        kind="policy",
        words="the entropy on the removed view",
    ),
    Sign(
        name="clip_high",
        metrics=("policy/clip_high_fraction",),
        rises=True,
        kind="policy",
        words="the share of tokens clipped from above",
        floor=0.00025,
        share=True,
    ),
    Sign(
        name="reward",
        metrics=("reward/mean",),
        rises=False,
        kind="outcome",
        words="the reward",
        unit="reward/std",
    ),
    Sign(
        name="format",
        metrics=("reward/format",),
        rises=False,
        kind="outcome",
        words="the format",
        floor=0.01,
        whole=True,
        share=True,
    ),
    Sign(
        name="relatedness",
        metrics=("completion/relatedness",),
        rises=False,
        kind="outcome",
        words="the share of the text that the grammar knows",
        floor=0.0003,
        whole=True,
        share=True,
    ),
    Sign(
        name="reference_logprob",
        metrics=("completion/reference_logprob",),
        rises=False,
        kind="outcome",
        words="the log-probability under the reference policy",
        alone=False,
    ),
    Sign(
        name="truncated",
        metrics=("completion/truncated_fraction",),
        rises=True,
        kind="text",
        words="the share of truncated completions",
        floor=0.01,
        share=True,
    ),
    Sign(
        name="length",
        metrics=("completion/length_mean",),
        rises=True,
        kind="text",
        words="the length",
    ),
)
"""What is watched. A run has those whose metrics it logs."""

VALIDATION = Sign(
    name="validation",
    metrics=("validation/accuracy",),
    rises=False,
    kind="outcome",
    words="the validation accuracy, mean of three,",
    share=True,
    past="at best",
)
"""What is watched where a run validates; it has statistics of its own."""

BY_NAME: Mapping[str, Sign] = {sign.name: sign for sign in (*SIGNS, VALIDATION)}


def in_words(line: Mapping[str, Any]) -> str:
    """A guard's line of metrics.jsonl as a sentence; what a field lacks is left out."""
    now, usual = _table(line.get("now")), _table(line.get("usual"))
    seen = [
        sign.tell(now[name], usual[name]) for name, sign in BY_NAME.items() if name in now and name in usual
    ]
    done = {
        "lower": "the weight of the perception terms is now {scale:g} of the configured one",
        "rollback": "back to the weights of step {restored}; the weight of the perception terms is now "
        "{scale:g} of the configured one",
        "stop": "stopped with the weights of step {restored}",
    }.get(str(line.get("act")), "")
    scale = line.get("scale")
    told = done.format(restored=line.get("restored"), scale=scale if isinstance(scale, int | float) else 1.0)
    onset = f"healthy up to step {line.get('onset')}"
    return f"step {line.get('step')}: " + "; ".join(part for part in (", ".join(seen), onset, told) if part)


def _table(value: object) -> dict[str, float]:
    """The numbers of a table by name; none where it is no table."""
    items = value.items() if isinstance(value, Mapping) else ()
    return {str(name): float(number) for name, number in items if isinstance(number, int | float)}
