"""What the cold start does for how long, and how wide its model is."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from foveal.spec import Config
from foveal.worlds.coldstart_widen import widened
from foveal.worlds.tiny import TinySettings

Size = Literal["tiny", "small"]


class Stage(Config):
    """One stage: AdamW with warm-up, a constant rate, and a cosine to 5 % at the end."""

    steps: int = Field(ge=0)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    anneal: bool = True
    """Whether the learning rate falls at the end."""


class ColdStartSettings(Config):
    """The recipe; the defaults made the folder that is shipped."""

    families: Mapping[str, float] = {"counting": 1.0, "relations": 1.4, "panels": 0.7}
    """Families and their weights in the mix."""
    noise: float = Field(default=1.0, ge=0)
    """Noise level of the pictures."""
    problems: int = Field(default=5000, ge=1)
    """Problems of each family, each drawn once and used again and again."""
    text: tuple[Stage, ...] = (
        Stage(steps=1200, learning_rate=2.5e-3, batch_size=48),
        Stage(steps=600, learning_rate=2.5e-3, batch_size=48),
    )
    """Rounds; each starts the learning rate anew."""
    dense: Stage = Stage(steps=150, learning_rate=2e-3, batch_size=32)
    joint: Stage = Stage(steps=1400, learning_rate=1.5e-3, batch_size=32)
    settle: Stage = Stage(steps=200, learning_rate=1e-3, batch_size=32)
    """The widened model, on everything."""
    prior: Stage = Stage(steps=300, learning_rate=1e-3, batch_size=32)
    listing_weight: float = Field(default=0.02, ge=0)
    """Weight of listing tokens while there are no pictures to read them from."""
    warmup_steps: int = Field(default=40, ge=0)
    narrow: TinySettings = TinySettings(hidden=96, rope_theta=1000.0, mrope_section=None)
    """Sizes while the parts are learnt; its heads are 24 wide."""
    model: TinySettings = TinySettings()
    """Sizes of the finished model, into which `narrow` is widened."""
    rl_haze: float = Field(default=0.55, ge=0, lt=1)
    """Haze of reinforcement learning and of the held-out mix that is measured at the end."""
    rl_noise: float = Field(default=4.0, ge=0)
    """Noise of the same pictures."""
    gate_problems: int = Field(default=512, ge=2)
    """Held-out problems behind each number of the record."""
    text_prior: bool = False
    """Leave the first stages out and add a text prior to the shipped folder instead."""
    blank_share: float = Field(default=0.35, ge=0, le=1)
    """Share of problems, in the text prior, whose picture is blanked and whose style word is right."""


def recipe_of(size: Size, *, text_prior: bool = False) -> ColdStartSettings:
    """The recipe of a size: "tiny" is the shipped folder's; "small" is twice as wide, about 3.5 million
    parameters, for what depends on a model's size.

    Steps of a wider model are smaller (0.6 of the learning rates), and so are its first weights (by the root
    of the width).
    """
    tiny = ColdStartSettings(text_prior=text_prior)
    if size == "tiny":
        return tiny
    narrow = tiny.narrow.model_copy(
        update={
            "hidden": 192,
            "intermediate": 512,
            "vision_hidden": 128,
            "vision_intermediate": 384,
            "initializer_range": 0.035,
        }
    )
    return tiny.model_copy(
        update={
            "narrow": narrow,
            "model": widened(narrow, heads_of=64),
            "text": tuple(_slower(stage) for stage in tiny.text),
            "dense": _slower(tiny.dense),
            "joint": _slower(tiny.joint),
            "settle": _slower(tiny.settle),
            "prior": _slower(tiny.prior),
        }
    )


def _slower(stage: Stage) -> Stage:
    return stage.model_copy(update={"learning_rate": 0.6 * stage.learning_rate})
