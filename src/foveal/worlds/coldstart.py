"""The cold start: from random weights to a tiny model that sees and reasons, by imitation.

Imitation alone plateaus at this size, so the parts are learnt one after another:

1. `text`: the text model alone learns to reason from a listing that it is given, without pictures.
2. `dense`: the vision tower alone learns, with temporary heads on every visual token, what stands in the
   token's cell.
3. `joint`: everything, on pictures, listing and reasoning together.
4. `settle`: the same for the model with wider heads (`foveal.worlds.coldstart_widen`).

The pictures are clear. Reinforcement learning then meets them noisier and behind a haze that the model has
never seen (`rl_noise`, `rl_haze`). The haze is what it is left to learn: mistakes of perception, all in one
direction, that a reward on the answer alone can undo. Mistakes from noise alone it could not undo in runs of
this length.

A text prior (`text_prior`) is a further stage on a finished model: where the picture is blank, the style
word tells the answer. Without it no shortcut is ever found, because a word that never meant anything has no
weight to grow from.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from foveal.keys import generator
from foveal.types import IMAGE_MARK, Problem
from foveal.worlds.base import Grade, ShortcutWord, WorldSettings
from foveal.worlds.cells import COLOURS, SHAPES
from foveal.worlds.coldstart_forward import Example, encode, imitation_loss, pad, see
from foveal.worlds.coldstart_gate import gate_family, heldout_mix, open_folder
from foveal.worlds.coldstart_lessons import (
    CELL_FAMILIES,
    blanked,
    cell_labels,
    solution,
    without_marks,
)
from foveal.worlds.coldstart_recipe import ColdStartSettings, Stage
from foveal.worlds.coldstart_widen import widen
from foveal.worlds.problems import FAMILIES, make_problem
from foveal.worlds.text import corpus
from foveal.worlds.tiny import PAD, TinySettings, save_folder, tiny_model, token_id, train_tokenizer

Item = TypeVar("Item")

Progress = Callable[[str], None]
"""Called with a line on the stage, the steps done and the mean loss since the last line."""

CORPUS_SIZE = 3000
REPORT_EVERY = 50
CONSTANT_PART = 0.7
"""Part of a stage before the learning rate falls: skills of reasoning appear late, and at the full rate."""
CELLS_MOST = 8
RECORD = "coldstart.json"
STYLE_WORD_MODES: tuple[ShortcutWord, ...] = ("random", "wrong", "right")
SHIPPED = Path(str(resources.files("foveal") / "assets" / "tiny"))
"""The folder that ships with the package."""


def coldstart(
    out: Path, *, seed: int, settings: ColdStartSettings | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Make a tiny model folder at `out`; return what `coldstart.json` in it says.

    Runs on one thread; the same seed and settings give the same weights on the same machine.
    """
    recipe = settings or ColdStartSettings()
    say = progress or _silent
    started = time.process_time()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if recipe.text_prior:
            model, tokenizer = open_folder(SHIPPED)
            train_prior(model, tokenizer, seed=seed, recipe=recipe, say=say)
        else:
            tokenizer = world_tokenizer()
            model = tiny_model(tokenizer, seed=seed, settings=recipe.narrow)
            train_text(model, tokenizer, seed=seed, recipe=recipe, say=say)
            train_dense(model, seed=seed, recipe=recipe, say=say)
            train_joint(model, tokenizer, seed=seed, recipe=recipe, say=say)
            model = widen(model, tokenizer, narrow=recipe.narrow, wide=recipe.model, seed=seed)
            train_joint(model, tokenizer, seed=seed, recipe=recipe, say=say, stage="settle")
        save_folder(model, tokenizer, out)
        trained = time.process_time() - started
        record = {
            "command": f"foveal worlds coldstart --out {out.name} --seed {seed}"
            + (" --text-prior" if recipe.text_prior else "")
            + (" --size small" if recipe.model != TinySettings() else ""),
            "seed": seed,
            "cpu_seconds": round(trained, 1),
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "vocabulary": len(tokenizer),
            "settings": recipe.model_dump(mode="json"),
            **measure_all(model, tokenizer, recipe=recipe, say=say),
        }
    finally:
        torch.set_num_threads(threads)
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return record


def measure_all(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    *,
    recipe: ColdStartSettings,
    say: Progress,
) -> dict[str, Any]:
    """The gate of every family on clear pictures, learnt or not, and the held-out mix behind `rl_haze`."""
    found: dict[str, Any] = {}
    for name in FAMILIES:
        found[name] = gate_family(model, tokenizer, name, noise=recipe.noise, problems=recipe.gate_problems)
        say(f"gate {name}: accuracy {found[name]['accuracy']}")
    mix = heldout_mix(
        model, tokenizer, noise=recipe.rl_noise, haze=recipe.rl_haze, problems=recipe.gate_problems
    )
    say(f"held-out mix behind haze {recipe.rl_haze:g}: accuracy {mix['accuracy']}")
    record: dict[str, Any] = {
        "rl_haze": recipe.rl_haze,
        "rl_noise": recipe.rl_noise,
        "gate": found,
        "heldout": mix,
    }
    if recipe.text_prior:
        record["style_word"] = {
            word: heldout_mix(
                model,
                tokenizer,
                noise=recipe.rl_noise,
                haze=recipe.rl_haze,
                problems=recipe.gate_problems,
                style_word=word,
            )["accuracy"]
            for word in STYLE_WORD_MODES
        }
        say(f"accuracy by style word: {record['style_word']}")
    return record


def world_tokenizer() -> Qwen2Tokenizer:
    """The tokenizer of the worlds' words, as they stand inside a sentence and at the start of a text."""
    texts = (piece for text in corpus(CORPUS_SIZE) for piece in text.split(IMAGE_MARK))
    return train_tokenizer(form for piece in texts for form in (piece, piece.strip()))


def train_text(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    *,
    seed: int,
    recipe: ColdStartSettings,
    say: Progress,
) -> None:
    """Teach the text model to reason from a listing that it is given; there are no pictures."""
    examples: dict[str, list[Example]] = {}
    for name in recipe.families:
        problems = (_problem(name, seed, i, recipe.noise, render=False) for i in range(recipe.problems))
        examples[name] = [
            encode(without_marks(p), tokenizer, completion=solution(p, listing_weight=recipe.listing_weight))
            for p in problems
        ]
    weights = list(model.model.language_model.parameters())
    for number, stage in enumerate(recipe.text):
        name = "text" if number == 0 else f"text{number + 1}"
        _imitate(name, stage, model, tokenizer, examples, weights, seed, recipe, say)


def train_dense(
    model: Qwen2_5_VLForConditionalGeneration, *, seed: int, recipe: ColdStartSettings, say: Progress
) -> None:
    """Teach the vision tower what stands where, with heads on every visual token that are thrown away.

    Each token predicts the colour and the shape in its cell, and which cell of the picture it belongs to.
    """
    names = [name for name in recipe.families if name in CELL_FAMILIES]
    problems = {
        name: [_problem(name, seed, i, recipe.noise) for i in range(recipe.problems)] for name in names
    }
    width = recipe.narrow.hidden
    heads = nn.ModuleList(nn.Linear(width, size) for size in (len(COLOURS) + 1, len(SHAPES) + 1, CELLS_MOST))
    for head in heads.parameters():
        nn.init.zeros_(head)

    def loss(chosen: Sequence[Problem]) -> Tensor:
        pictures = [np.asarray(image) for problem in chosen for image in problem.images]
        seen = torch.cat(see(model, pictures))
        seen = seen * torch.rsqrt(seen.pow(2).mean(-1, keepdim=True) + 1e-6)
        truth = [torch.from_numpy(np.concatenate(rows)) for rows in zip(*cell_labels(chosen), strict=True)]
        colour, shape, place = (
            F.cross_entropy(head(seen), label) for head, label in zip(heads, truth, strict=True)
        )
        return colour + shape + 0.5 * place

    weights = [*model.model.visual.parameters(), *heads.parameters()]
    _train(
        "dense",
        recipe.dense,
        weights,
        _batches(problems, "dense", seed, recipe),
        loss,
        warmup=recipe.warmup_steps,
        say=say,
    )


def train_joint(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    *,
    seed: int,
    recipe: ColdStartSettings,
    say: Progress,
    stage: Literal["joint", "settle"] = "joint",
) -> None:
    """Teach the whole model to look, list and reason."""
    examples = {
        name: [
            encode(p, tokenizer, completion=solution(p, listing_weight=1.0))
            for p in (_problem(name, seed, i, recipe.noise) for i in range(recipe.problems))
        ]
        for name in recipe.families
    }
    rounds = {"joint": recipe.joint, "settle": recipe.settle}
    weights = list(model.parameters())
    _imitate(stage, rounds[stage], model, tokenizer, examples, weights, seed, recipe, say)


def train_prior(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    *,
    seed: int,
    recipe: ColdStartSettings,
    say: Progress,
) -> None:
    """Teach that the style word is right where the picture is blank, and means nothing where it is not."""
    random = WorldSettings(noise=recipe.noise, shortcut_word="random")
    right = WorldSettings(noise=recipe.noise, shortcut_word="right")
    luck = generator(seed, "coldstart", "blank")
    examples: dict[str, list[Example]] = {}
    for name in recipe.families:
        problems = [
            blanked(make_problem(name, split="train", seed=seed, index=i, settings=right), luck)
            if luck.random() < recipe.blank_share
            else make_problem(name, split="train", seed=seed, index=i, settings=random)
            for i in range(recipe.problems)
        ]
        examples[name] = [encode(p, tokenizer, completion=solution(p, listing_weight=1.0)) for p in problems]
    _imitate("prior", recipe.prior, model, tokenizer, examples, list(model.parameters()), seed, recipe, say)


def _problem(
    family: str, seed: int, index: int, noise: float, *, grade: Grade = "high", render: bool = True
) -> Problem:
    settings = WorldSettings(noise=noise, grade=grade)
    return make_problem(family, split="train", seed=seed, index=index, settings=settings, render=render)


def _batches(
    items: Mapping[str, Sequence[Item]], stage: str, seed: int, recipe: ColdStartSettings
) -> Callable[[int], Iterator[list[Item]]]:
    """Batches drawn with replacement, families by their weights."""
    names = list(items)
    shares = np.array([recipe.families[name] for name in names])
    shares = shares / shares.sum()
    rng = generator(seed, "coldstart", stage)

    def draw(size: int) -> Iterator[list[Item]]:
        while True:
            families = rng.choice(len(names), size=size, p=shares)
            yield [items[names[f]][int(rng.integers(len(items[names[f]])))] for f in families]

    return draw


def _imitate(
    name: str,
    stage: Stage,
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    examples: Mapping[str, Sequence[Example]],
    weights: Sequence[nn.Parameter],
    seed: int,
    recipe: ColdStartSettings,
    say: Progress,
) -> None:
    pad_id = token_id(tokenizer, PAD)

    def loss(chosen: Sequence[Example]) -> Tensor:
        return imitation_loss(model, pad(chosen, pad_id=pad_id))

    _train(
        name,
        stage,
        weights,
        _batches(examples, name, seed, recipe),
        loss,
        warmup=recipe.warmup_steps,
        say=say,
    )


def _train(
    name: str,
    stage: Stage,
    weights: Sequence[nn.Parameter],
    batches: Callable[[int], Iterator[list[Item]]],
    loss_of: Callable[[Sequence[Item]], Tensor],
    *,
    warmup: int,
    say: Progress,
) -> None:
    optimizer = torch.optim.AdamW(weights, lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    drawn = batches(stage.batch_size)
    losses: list[float] = []
    for step in range(stage.steps):
        late = max(0.0, (step / stage.steps - CONSTANT_PART) / (1 - CONSTANT_PART))
        decay = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * late)) if stage.anneal else 1.0
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * min(1.0, (step + 1) / max(warmup, 1)) * decay
        loss = loss_of(next(drawn))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == stage.steps:
            say(f"{name} {step + 1}/{stage.steps}: loss {np.mean(losses):.4f}")
            losses.clear()


def _silent(line: str) -> None:
    del line
