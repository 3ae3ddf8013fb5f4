"""The tiny model: its tokenizer, its folder, its forward, the cold start, and the folder that ships."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from foveal.cli.worlds import coldstart as worlds_coldstart
from foveal.config import load
from foveal.spec import FovealError
from foveal.tables import shipped
from foveal.types import Problem
from foveal.worlds import FAMILIES, make_problem
from foveal.worlds.cells import COLOURS, LETTERS, SHAPES
from foveal.worlds.coldstart import coldstart, world_tokenizer
from foveal.worlds.coldstart_forward import continue_prompts, encode, imitation_loss, pad, read, see
from foveal.worlds.coldstart_gate import failures, gate
from foveal.worlds.coldstart_recipe import ColdStartSettings, Stage, recipe_of
from foveal.worlds.coldstart_widen import widen, widened
from foveal.worlds.tiny import (
    SPECIALS,
    TinySettings,
    mrope_sections,
    save_folder,
    tiny_config,
    tiny_model,
)

SHIPPED = Path(str(resources.files("foveal") / "assets" / "tiny"))
SMALL = TinySettings(
    hidden=24, intermediate=32, layers=1, heads=2, kv_heads=1, vision_hidden=16, vision_intermediate=16,
    vision_layers=1, vision_heads=2, rope_theta=1000.0, mrope_section=None,
)  # fmt: skip
WIDER = widened(SMALL, heads_of=16)


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return world_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    torch.set_num_threads(1)
    return tiny_model(tokenizer, seed=0)


def test_each_word_of_the_worlds_is_one_token(tokenizer: Qwen2Tokenizer) -> None:
    words = {
        *COLOURS,
        *SHAPES,
        *(f"{shape}s" for shape in SHAPES),
        *LETTERS[:4],
        "hypotenuse",
        "radius",
        "Count",
    }
    split = {word: tokenizer.tokenize(f" {word}") for word in words}
    assert all(len(pieces) == 1 for pieces in split.values()), split
    assert all(len(tokenizer.tokenize(word)) == 1 for word in ("How", "Where", "What", "Is", "Which", "Find"))


def test_a_number_is_written_in_single_digits(tokenizer: Qwen2Tokenizer) -> None:
    assert tokenizer.tokenize("1024") == ["1", "0", "2", "4"]


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    import unicodedata

    tokenizer = _cached_tokenizer()
    plain = unicodedata.normalize("NFC", text)
    if any(special in plain for special in SPECIALS):
        return
    assert tokenizer.decode(tokenizer(plain, add_special_tokens=False)["input_ids"]) == plain


def _cached_tokenizer(kept: list[Qwen2Tokenizer] = []) -> Qwen2Tokenizer:  # noqa: B006
    if not kept:
        kept.append(world_tokenizer())
    return kept[0]


def test_the_prompt_is_the_one_that_the_policy_builds(
    tokenizer: Qwen2Tokenizer, model: Qwen2_5_VLForConditionalGeneration, tmp_path: Path
) -> None:
    from foveal.policy import model as policy

    save_folder(model, tokenizer, tmp_path)
    loaded = policy.load_policy(str(tmp_path))
    for family in ("counting", "panels"):
        problem = make_problem(family, split="train", seed=0, index=0)
        mine, theirs = encode(problem, tokenizer), loaded.processor.encode(problem).prompt
        assert mine.token_ids.tolist() == theirs.token_ids.tolist()
        assert mine.positions.tolist() == theirs.position_ids.tolist()


def test_the_fast_forward_equals_that_of_transformers(
    tokenizer: Qwen2Tokenizer, model: Qwen2_5_VLForConditionalGeneration
) -> None:
    problems = [make_problem(family, split="train", seed=0, index=1) for family in ("counting", "panels")]
    examples = [encode(p, tokenizer, completion=[(p.meta["chain_of_thought"], 1.0)]) for p in problems]
    batch = pad(examples, pad_id=0)
    with torch.no_grad():
        mine = model.lm_head(read(model, batch, vision=see(model, batch.pictures)))
        for row, (problem, example) in enumerate(zip(problems, examples, strict=True)):
            theirs = _reference_logits(model, problem, torch.from_numpy(example.token_ids)[None])
            torch.testing.assert_close(mine[row, : theirs.shape[1]], theirs[0], atol=2e-5, rtol=0)


def _reference_logits(
    model: Qwen2_5_VLForConditionalGeneration, problem: Problem, ids: torch.Tensor
) -> torch.Tensor:
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 784, "longest_edge": 784 * 64})
    pixels = images(images=list(problem.images), return_tensors="pt")
    kinds = (ids == model.config.image_token_id).int()
    return model(
        input_ids=ids,
        pixel_values=pixels["pixel_values"],
        image_grid_thw=pixels["image_grid_thw"],
        mm_token_type_ids=kinds,
    ).logits


def test_greedy_completions_equal_those_of_generate(
    tokenizer: Qwen2Tokenizer, model: Qwen2_5_VLForConditionalGeneration
) -> None:
    problem = make_problem("counting", split="train", seed=0, index=2)
    example = encode(problem, tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    mine = continue_prompts(model, [example, example], end_id=end, max_new_tokens=6)
    ids = torch.from_numpy(example.token_ids)[None]
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, _reference_logits(model, problem, ids)[:, -1:].argmax(-1)], dim=1)
    assert mine[0] == mine[1] == ids[0, example.prompt_length :].tolist()


def test_only_the_completion_is_imitated(
    tokenizer: Qwen2Tokenizer, model: Qwen2_5_VLForConditionalGeneration
) -> None:
    problem = make_problem("counting", split="train", seed=0, index=0)
    example = encode(problem, tokenizer, completion=[("I see", 2.0), (" red", 0.0), (" circle", 0.5)])
    weights = example.weights[example.prompt_length :].tolist()
    assert weights == [2.0, 2.0, 0.0, 0.5, 0.5] and not example.weights[: example.prompt_length].any()
    batch = pad([example], pad_id=0)
    with torch.no_grad():
        logs = model.lm_head(read(model, batch, vision=see(model, batch.pictures))).log_softmax(-1)[0]
        total = sum(
            -weights[t]
            * float(logs[example.prompt_length + t - 1, example.token_ids[example.prompt_length + t]])
            for t in range(5)
        )
        assert float(imitation_loss(model, batch)) == pytest.approx(total / sum(weights), rel=1e-5)


def test_first_weights_depend_on_the_seed_alone(tokenizer: Qwen2Tokenizer) -> None:
    torch.manual_seed(1)
    first = tiny_model(tokenizer, seed=3, settings=SMALL)
    torch.manual_seed(2)
    again = tiny_model(tokenizer, seed=3, settings=SMALL)
    other = tiny_model(tokenizer, seed=4, settings=SMALL)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_a_width_that_rotary_sections_cannot_split_is_refused(tokenizer: Qwen2Tokenizer) -> None:
    sizes = [
        {"hidden": 130, "mrope_section": None},
        {"hidden": 16, "mrope_section": None},
        {"hidden": 100, "mrope_section": None},
        {"hidden": 96},
    ]
    for size in (TinySettings(**values) for values in sizes):
        with pytest.raises(FovealError, match="an even width of at least 6"):
            tiny_config(tokenizer, settings=size)


@pytest.mark.parametrize(("width", "sections"), [(128, (16, 24, 24)), (32, (4, 6, 6)), (12, (2, 2, 2))])
def test_rotary_sections_are_qwens_and_use_every_frequency(width: int, sections: tuple[int, ...]) -> None:
    assert mrope_sections(width) == sections and sum(sections) == width // 2


def test_the_shipped_sizes_are_the_narrow_ones_widened_to_heads_of_32() -> None:
    for size in ("tiny", "small"):
        recipe = recipe_of(size)
        assert recipe.model == widened(recipe.narrow, heads_of=recipe.model.hidden // recipe.model.heads)
        assert recipe.model.hidden // recipe.model.heads in (32, 64)
        assert recipe.model.rope_theta == 10_000


def some_logits(model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer) -> torch.Tensor:
    problems = [make_problem(family, split="train", seed=0, index=1) for family in ("counting", "panels")]
    batch = pad(
        [encode(p, tokenizer, completion=[(p.meta["chain_of_thought"], 1.0)]) for p in problems], pad_id=0
    )
    return model.lm_head(read(model, batch, vision=see(model, batch.pictures)))


def test_widening_changes_no_logit_and_every_new_weight_learns(tokenizer: Qwen2Tokenizer) -> None:
    narrow = tiny_model(tokenizer, seed=3, settings=SMALL)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for weight in narrow.parameters():
            weight.add_(torch.from_numpy(rng.normal(0, 0.1, tuple(weight.shape)).astype(np.float32)))
    wide = widen(narrow, tokenizer, narrow=SMALL, wide=WIDER, seed=4)
    assert wide.config.text_config.hidden_size == 32
    torch.testing.assert_close(
        some_logits(wide, tokenizer), some_logits(narrow, tokenizer), atol=1e-3, rtol=1e-4
    )
    before = {name: weight.detach().clone() for name, weight in wide.named_parameters()}
    optimizer = torch.optim.AdamW(wide.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        some_logits(wide, tokenizer).log_softmax(-1)[..., 3].sum().backward()
        optimizer.step()
    old = dict(narrow.named_parameters())
    for name, weight in wide.named_parameters():
        if old[name].shape != weight.shape and "embed_tokens" not in name and "k_proj.bias" not in name:
            assert (weight != before[name]).float().mean() > 0.99, name


def test_widening_to_other_sizes_is_refused(tokenizer: Qwen2Tokenizer) -> None:
    narrow = tiny_model(tokenizer, seed=3, settings=SMALL)
    with pytest.raises(FovealError, match="cannot be widened"):
        widen(narrow, tokenizer, narrow=SMALL, wide=WIDER.model_copy(update={"layers": 2}), seed=0)


def test_the_shipped_heads_are_of_a_width_that_engines_take() -> None:
    for name in ("tiny", "tiny-text-prior"):
        text = json.loads((SHIPPED.parent / name / "config.json").read_text())["text_config"]
        assert text["hidden_size"] // text["num_attention_heads"] == 32
        assert sum(file.stat().st_size for file in (SHIPPED.parent / name).iterdir()) < 5_000_000


STEP = Stage(steps=2, learning_rate=1e-3, batch_size=2)
TWO_STEPS = ColdStartSettings(
    families={"counting": 1.0},
    problems=4,
    text=(STEP, STEP),
    dense=STEP,
    joint=STEP,
    settle=STEP,
    prior=STEP,
    gate_problems=2,
    narrow=SMALL,
    model=WIDER,
)


def test_a_two_step_cold_start_writes_a_folder_that_transformers_opens(tmp_path: Path) -> None:
    lines: list[str] = []
    record = coldstart(tmp_path, seed=0, settings=TWO_STEPS, progress=lines.append)
    assert {line.split()[0] for line in lines} >= {"text", "text2", "dense", "joint", "settle", "gate"}
    assert record == json.loads((tmp_path / "coldstart.json").read_text())
    assert AutoModelForImageTextToText.from_pretrained(tmp_path).dtype == torch.float32
    assert AutoTokenizer.from_pretrained(tmp_path).tokenize(" red circle") == ["Ġred", "Ġcircle"]
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert config["processor_class"] == "Qwen2_5_VLProcessor" and config["size"]["shortest_edge"] == 784


def test_the_small_size_is_wider_learns_more_slowly_and_takes_no_text_prior(
    tokenizer: Qwen2Tokenizer, tmp_path: Path
) -> None:
    tiny, small = recipe_of("tiny"), recipe_of("small")
    assert tiny == ColdStartSettings()
    sizes = [
        sum(weight.numel() for weight in tiny_model(tokenizer, seed=0, settings=recipe.model).parameters())
        for recipe in (tiny, small)
    ]
    assert 3 < sizes[1] / sizes[0] < 4
    pairs = [(tiny.dense, small.dense), (tiny.joint, small.joint), *zip(tiny.text, small.text, strict=True)]
    for before, after in pairs:
        assert after.learning_rate == 0.6 * before.learning_rate and after.steps == before.steps
    with pytest.raises(FovealError, match="--text-prior goes on from the shipped tiny model; leave --size"):
        worlds_coldstart(out=tmp_path / "out", seed=0, text_prior=True, size="small")


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("first", "again"):
        coldstart(tmp_path / name, seed=1, settings=TWO_STEPS)
    coldstart(tmp_path / "other", seed=2, settings=TWO_STEPS)
    weights = {path.name: (path / "model.safetensors").read_bytes() for path in tmp_path.iterdir()}
    assert weights["first"] == weights["again"] != weights["other"]


def test_a_text_prior_goes_on_from_the_shipped_weights(tmp_path: Path) -> None:
    still = TWO_STEPS.model_copy(
        update={"text_prior": True, "prior": Stage(steps=0, learning_rate=1, batch_size=1)}
    )
    coldstart(tmp_path / "start", seed=0, settings=still)
    coldstart(tmp_path / "prior", seed=0, settings=TWO_STEPS.model_copy(update={"text_prior": True}))
    shipped, start, prior = (
        AutoModelForImageTextToText.from_pretrained(path).lm_head.weight
        for path in (SHIPPED, tmp_path / "start", tmp_path / "prior")
    )
    assert torch.equal(shipped, start) and not torch.equal(shipped, prior)


def test_the_gate_names_each_bar_that_is_missed() -> None:
    blind = {
        "format": 0.9,
        "attributes": {
            "colour": {"right": 0.9, "other_picture": 0.6, "moved": 0.3},
            "position": {"right": 0.9, "other_picture": 0.2, "moved": 0.8},
        },
    }
    missed = failures({"counting": blind})
    assert len(missed) == 3
    assert any("format" in line for line in missed) and any("moved" in line for line in missed)
    seeing = {
        "format": 1.0,
        "attributes": {"colour": {"right": 0.9, "other_picture": 0.4, "moved": 0.85}},
    }
    assert failures({"counting": seeing}) == []


def test_the_shipped_folder_is_small_and_its_record_meets_the_gate() -> None:
    record = json.loads((SHIPPED / "coldstart.json").read_text())
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 5_000_000
    assert set(record["gate"]) == set(FAMILIES)
    assert failures({name: record["gate"][name] for name in ("counting", "relations")}) == []
    assert 0.35 <= record["heldout"]["accuracy"] <= 0.70
    assert record["heldout"]["perception_errors"] > 0.5 * (1 - record["heldout"]["accuracy"])
    assert record["cpu_seconds"] <= 1800


def test_the_record_is_of_the_pictures_that_the_quickstart_trains_on() -> None:
    data = load(shipped("quickstart_grpo")).data
    for name in ("tiny", "tiny-text-prior"):
        heldout = json.loads((SHIPPED.parent / name / "coldstart.json").read_text())["heldout"]
        assert (heldout["noise"], heldout["haze"]) == (data.noise, data.haze)
        assert heldout["families"] == data.families


def test_the_shipped_tokenizer_is_the_one_that_the_worlds_give(tokenizer: Qwen2Tokenizer) -> None:
    shipped = AutoTokenizer.from_pretrained(SHIPPED)
    assert shipped.get_vocab() == tokenizer.get_vocab()


@pytest.mark.slow
def test_the_shipped_model_sees() -> None:
    torch.set_num_threads(1)
    found = gate(SHIPPED, problems=256)
    assert failures(found) == []
    assert np.mean([part["accuracy"]["right"] for part in found.values()]) > 0.5
