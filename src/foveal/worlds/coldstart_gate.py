"""Does the model see? Accuracy with the right picture, with another problem's, and with the objects moved."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)

from foveal.keys import generator
from foveal.types import Problem
from foveal.worlds.base import ShortcutWord, WorldSettings
from foveal.worlds.coldstart_forward import continue_prompts, encode
from foveal.worlds.judge import judge
from foveal.worlds.problems import WorldData, make_problem, moved, with_other_picture
from foveal.worlds.tiny import END, token_id

MAX_NEW_TOKENS = 96
RL_MIX = {"counting": 1.0, "relations": 2.0}
"""Families of reinforcement learning with their weights: those that the tiny model has learnt."""

RL_FAMILIES = tuple(RL_MIX)
"""The families that reinforcement learning starts from."""
FEWEST_DONORS = 64
FORMAT_BAR = 0.98
SEEING_BAR = 0.4
"""Least difference between the accuracy of an attribute with the right picture and with a wrong one."""

FORMAT = re.compile(r"<think>.+?</think>\s*\\boxed\{([^{}]*)\}\s*", re.DOTALL)
"""A completion of the right form; its group is the answer."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a set of completions is worth, as fractions."""

    problems: int
    accuracy: float
    format: float
    perception_errors: float
    """Wrong answers that follow from facts which are not in the picture, as a share of all answers."""
    attributes: Mapping[str, tuple[int, int]]
    """(right, stated) by attribute, against the scene of the question."""

    def attribute(self, name: str) -> float:
        """Accuracy of an attribute; 0 when it was never stated."""
        right, stated = self.attributes[name]
        return right / stated if stated else 0.0


def complete(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    problems: Sequence[Problem],
    *,
    temperature: float = 0.0,
    rng: np.random.Generator | None = None,
) -> list[str]:
    """A completion of each problem, greedy or sampled."""
    rows = continue_prompts(
        model,
        [encode(problem, tokenizer) for problem in problems],
        end_id=token_id(tokenizer, END),
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=temperature,
        rng=rng,
    )
    return [str(tokenizer.decode(row)) for row in rows]


def measure(problems: Sequence[Problem], completions: Sequence[str]) -> Measured:
    """Score completions; the facts that they state are held against the scene of the question."""
    verdicts = [judge(problem, text) for problem, text in zip(problems, completions, strict=True)]
    kinds = Counter(verdict.kind for verdict in verdicts)
    attributes: dict[str, tuple[int, int]] = {}
    for verdict in verdicts:
        for name, (right, stated) in verdict.attributes.items():
            before = attributes.get(name, (0, 0))
            attributes[name] = (before[0] + right, before[1] + stated)
    n = max(len(problems), 1)
    return Measured(
        problems=len(problems),
        accuracy=kinds["correct"] / n,
        format=sum(FORMAT.fullmatch(text) is not None for text in completions) / n,
        perception_errors=kinds["perception"] / n,
        attributes=attributes,
    )


def heldout(family: str, *, problems: int, noise: float, seed: int = 0) -> list[Problem]:
    """The first held-out problems of a family at a noise level."""
    settings = WorldSettings(noise=noise)
    return [
        make_problem(family, split="heldout", seed=seed, index=i, settings=settings) for i in range(problems)
    ]


def heldout_mix(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    *,
    noise: float,
    haze: float = 0.0,
    problems: int,
    families: Mapping[str, float] = RL_MIX,
    style_word: ShortcutWord = "none",
) -> dict[str, Any]:
    """What is left to learn: the held-out mix, greedy and sampled once at temperature 1."""
    settings = WorldSettings(noise=noise, haze=haze, shortcut_word=style_word)
    data = list(WorldData(families, split="heldout", seed=0, size=problems, settings=settings))
    greedy = measure(data, complete(model, tokenizer, data))
    sampled = measure(
        data, complete(model, tokenizer, data, temperature=1.0, rng=generator("heldout_mix", problems))
    )
    return {
        "families": dict(families),
        "noise": noise,
        "haze": haze,
        "problems": problems,
        "accuracy": round(greedy.accuracy, 4),
        "sampled_accuracy": round(sampled.accuracy, 4),
        "perception_errors": round(greedy.perception_errors, 4),
        "format": round(greedy.format, 4),
        "attributes": {name: round(greedy.attribute(name), 4) for name in greedy.attributes},
    }


def failures(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each bar that a gate misses; none when the model sees."""
    lines = []
    for family, result in found.items():
        if result["format"] < FORMAT_BAR:
            lines.append(f"{family}: format {result['format']:.3f}, expected at least {FORMAT_BAR}")
        for name, shown in result["attributes"].items():
            wrong = ["other_picture", *(["moved"] if name == "position" else [])]
            for other in (o for o in wrong if o in shown):
                if shown["right"] - shown[other] < SEEING_BAR:
                    lines.append(
                        f"{family}: {name} {shown['right']:.3f} with the right picture, {shown[other]:.3f} "
                        f"with {other}; expected at least {SEEING_BAR} between them"
                    )
    return lines


def gate_family(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    family: str,
    *,
    noise: float,
    problems: int,
) -> dict[str, Any]:
    """Accuracy, in all and of each named attribute, with the right, another and the rearranged picture."""
    donors = heldout(family, problems=max(problems, FEWEST_DONORS), noise=noise)
    own = donors[:problems]
    other = [with_other_picture(problem, donors) for problem in own]
    rearranged = [problem for problem in (moved(p) for p in own) if problem is not None]
    shown = {"right": own, "other_picture": other, "moved": rearranged}
    found = {
        name: measure(items, complete(model, tokenizer, items)) for name, items in shown.items() if items
    }
    return {
        "problems": problems,
        "format": round(found["right"].format, 4),
        "perception_errors": round(found["right"].perception_errors, 4),
        "accuracy": {name: round(result.accuracy, 4) for name, result in found.items()},
        "attributes": {
            attribute: {name: round(result.attribute(attribute), 4) for name, result in found.items()}
            for attribute in found["right"].attributes
        },
    }


def gate(
    folder: Path, *, families: Sequence[str] = RL_FAMILIES, noise: float = 1.0, problems: int = 512
) -> dict[str, Any]:
    """The gate of a model folder, by family, greedy, on held-out problems."""
    model, tokenizer = open_folder(folder)
    return {name: gate_family(model, tokenizer, name, noise=noise, problems=problems) for name in families}


def open_folder(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer]:
    """Model and tokenizer of a folder, as transformers opens them."""
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return model.eval(), tokenizer
