"""What the model reads: positions, vision windows, patches and prompts, against transformers."""

import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from foveal.policy import Policy, processing
from foveal.policy.processing import Processor
from foveal.spec import FovealError
from foveal.types import Problem, Turn
from policy_cases import NONE, ONE, TALL, TWO, picture, plain_model, problem

THREE = problem("three", "<image> <image> and <image>", (140, 84), (28, 28), (56, 224))


@pytest.fixture
def processor(policy: Policy) -> Processor:
    return Processor(policy.processor.folder, policy.family)


@pytest.mark.parametrize("of", [ONE, TWO, TALL, THREE], ids=lambda of: of.id)
def test_positions_equal_those_of_transformers(policy: Policy, of: Problem) -> None:
    prompt = policy.processor.encode(of).prompt
    ids = prompt.token_ids[None]
    kinds = (ids == policy.family.image_token_id).int()
    wanted, delta = policy.model.model.get_rope_index(  # type: ignore[union-attr, operator]
        ids, mm_token_type_ids=kinds, image_grid_thw=prompt.grids
    )
    assert torch.equal(prompt.position_ids, wanted[:, 0])
    assert prompt.next_position == len(prompt.token_ids) + int(delta)


def test_positions_of_a_text_are_its_order(policy: Policy) -> None:
    prompt = policy.processor.encode(NONE).prompt
    assert torch.equal(prompt.position_ids, torch.arange(len(prompt.token_ids)).expand(3, -1))
    assert prompt.next_position == len(prompt.token_ids)


@pytest.mark.parametrize(
    "sizes",
    [
        [(112, 112)],
        [(140, 84)],
        [(196, 112), (28, 28)],
        [(112, 112), (112, 112)],
        [(252, 140), (84, 140), (56, 56)],
    ],
    ids=str,
)
def test_vision_features_and_gradients_equal_those_of_transformers(
    policy: Policy, sizes: list[tuple[int, int]]
) -> None:
    pixels, grids = policy.processor.pixels([picture(*size, seed=i) for i, size in enumerate(sizes)])
    model = plain_model(policy)
    policy.zero_grad()
    found = policy.family.features(policy.model, pixels, grids)
    wanted = model.model.visual(pixels, grid_thw=grids).pooler_output  # type: ignore[union-attr, operator]
    assert found.shape[0] == int(policy.family.visual_tokens(grids).sum())
    assert (found - wanted).abs().max() <= 5e-6 * float(wanted.abs().max())
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    grads = [
        torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None])
        for m in (policy.model, model)
    ]
    assert float((grads[0] - grads[1]).norm() / grads[1].norm()) <= 1e-5


def test_each_picture_is_seen_apart_from_the_others(policy: Policy) -> None:
    both = [picture(140, 84, seed=1), picture(112, 112, seed=2)]
    together = policy.family.features(policy.model, *policy.processor.pixels(both))
    alone = policy.family.features(policy.model, *policy.processor.pixels(both[1:]))
    assert torch.allclose(together[-len(alone) :], alone, atol=1e-5)


def test_patch_product_equals_the_convolution(policy: Policy) -> None:
    embed = policy.model.model.visual.patch_embed  # type: ignore[union-attr]
    pixels, _ = policy.processor.pixels([picture(140, 84)])
    found = embed.forward(pixels)  # type: ignore[operator, union-attr]
    wanted = type(embed).forward(embed, pixels)
    assert found.shape == wanted.shape == (60, 32)
    assert (found - wanted).abs().max() <= 5e-6 * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("size", "grid"), [((112, 112), (1, 8, 8)), ((140, 84), (1, 6, 10)), ((30, 20), (1, 2, 2))]
)
def test_grid_of_a_size_equals_that_of_the_pixels(
    processor: Processor, size: tuple[int, int], grid: tuple[int, int, int]
) -> None:
    pixels, grids = processor.pixels([picture(*size)])
    assert processor.grid(size) == tuple(grids[0].tolist()) == grid
    assert len(pixels) == grid[1] * grid[2]


def test_large_pictures_are_scaled_into_the_folders_limits(processor: Processor) -> None:
    size = (700, 560)
    _, grids = processor.pixels([picture(*size)])
    assert processor.grid(size) == tuple(grids[0].tolist())
    assert int(grids.prod()) * 14 * 14 <= 784 * 256


def test_limits_written_as_min_and_max_pixels_are_obeyed(
    tiny_folder: Path, policy: Policy, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    del settings["size"]
    file.write_text(json.dumps({**settings, "min_pixels": 3136, "max_pixels": 7840}))
    processor = Processor(folder, policy.family)
    for size in ((28, 28), (280, 140)):
        _, grids = processor.pixels([picture(*size)])
        assert processor.grid(size) == tuple(grids[0].tolist())
        assert 3136 <= int(grids.prod()) * 14 * 14 <= 7840


def test_pixels_equal_those_of_the_image_processor(policy: Policy) -> None:
    images = [picture(112, 56), picture(84, 140, seed=1)]
    wanted = Qwen2VLImageProcessorPil.from_pretrained(policy.processor.folder)(
        images=images, return_tensors="pt"
    )
    pixels, grids = policy.processor.pixels(images)
    assert torch.equal(pixels, wanted["pixel_values"])
    assert torch.equal(grids, wanted["image_grid_thw"])


def test_grey_and_transparent_pictures_are_read_as_colour(policy: Policy) -> None:
    grey = picture(56, 56).convert("L")
    found, _ = policy.processor.pixels([grey, grey.convert("RGBA")])
    wanted, _ = policy.processor.pixels([grey.convert("RGB")] * 2)
    assert torch.equal(found, wanted)


def test_a_prompt_is_the_chat_template_with_one_placeholder_a_visual_token(policy: Policy) -> None:
    def marks(count: int) -> str:
        return "<|vision_start|>" + "<|image_pad|>" * count + "<|vision_end|>"

    # 84 x 56 pixels are 3 x 2 visual tokens, 56 x 140 are 2 x 5.
    question = f"first{marks(6)}then{marks(10)}which shows more?"
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    prompt = policy.processor.encode(TWO).prompt
    wanted = policy.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt.token_ids.tolist() == wanted
    assert prompt.image_mask.tolist() == [token == policy.family.image_token_id for token in wanted]
    assert prompt.grids.tolist() == [[1, 4, 6], [1, 10, 4]]


TALK = replace(
    TWO,
    id="talk",
    system="Look before you answer.",
    turns=(Turn(role="user", text="first <image>?"), Turn(role="assistant", text="It is red.")),
    question="then <image>?",
)


def test_system_prompt_and_earlier_turns_stand_in_the_chat_template(policy: Policy) -> None:
    def marks(count: int) -> str:
        return "<|vision_start|>" + "<|image_pad|>" * count + "<|vision_end|>"

    text = (
        "<|im_start|>system\nLook before you answer.<|im_end|>\n"
        f"<|im_start|>user\nfirst{marks(6)}?<|im_end|>\n<|im_start|>assistant\nIt is red.<|im_end|>\n"
        f"<|im_start|>user\nthen{marks(10)}?<|im_end|>\n<|im_start|>assistant\n"
    )
    prompt = policy.processor.encode(TALK).prompt
    assert (
        prompt.token_ids.tolist() == policy.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    )
    assert prompt.grids.tolist() == [[1, 4, 6], [1, 10, 4]]


def test_options_that_are_pictures_have_a_line_each() -> None:
    asked = "<image>\nWhich fits? <image>\nA. <image>\nB. <image>"
    parts = processing.messages(replace(TWO, question=asked))[0]["content"]
    assert [part.get("text", "#") for part in parts] == ["#", "Which fits?", "#", "\nA.", "#", "\nB.", "#"]


def test_a_special_token_in_a_system_prompt_or_an_earlier_turn_is_refused(processor: Processor) -> None:
    turns = (Turn(role="assistant", text="<|vision_start|>"), *TALK.turns)
    for bad in (replace(TALK, system="<|image_pad|>"), replace(TALK, turns=turns)):
        with pytest.raises(FovealError, match="special token"):
            processor.encode(bad)


def test_marks_are_counted_over_all_turns(processor: Processor) -> None:
    with pytest.raises(FovealError, match="3 <image> marks for 2 pictures"):
        processor.encode(replace(TALK, question="<image><image>?"))


@pytest.mark.parametrize("of", [ONE, TWO, NONE, TALL, THREE, TALK], ids=lambda of: of.id)
def test_prompt_length_from_sizes_equals_the_length_of_the_prompt(policy: Policy, of: Problem) -> None:
    sizes = [image.size for image in of.images]
    assert policy.processor.prompt_length(of, sizes) == len(policy.processor.encode(of).prompt.token_ids)


def test_problems_with_one_id_and_other_pictures_are_read_apart(processor: Processor) -> None:
    other = Problem(id=ONE.id, question=ONE.question, images=(picture(56, 56, seed=9),), answer="2")
    assert processor.encode(ONE) is processor.encode(ONE)
    assert len(processor.encode(other).pixels) == 16
    assert len(processor.encode(ONE).pixels) == 64


def test_kept_patches_stay_within_their_bytes(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    size = processor.encode(ONE).pixels.nbytes
    monkeypatch.setattr(processing, "CACHED_BYTES", 2 * size)
    first = processor.encode(ONE)
    others = [problem(name, ONE.question, (112, 112)) for name in ("b", "c")]
    for other in others:
        processor.encode(other)
    assert processor.encode(ONE) is not first
    assert sum(encoded.pixels.nbytes for _, encoded in processor._cache.values()) <= 2 * size
    assert processor._cached_bytes == 2 * size


def test_patches_are_kept_no_longer_than_their_problem(processor: Processor) -> None:
    before = processor._cached_bytes
    passing = problem("passing", ONE.question, (112, 112))
    size = processor.encode(passing).pixels.nbytes
    assert processor._cached_bytes == before + size
    alive = weakref.ref(passing)
    del passing
    assert alive() is None
    kept = processor.encode(TALL)
    assert processor._cached_bytes == before + kept.pixels.nbytes


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|vision_start|>", "<|video_pad|>"])
def test_a_question_with_a_special_token_is_refused(processor: Processor, token: str) -> None:
    with pytest.raises(FovealError, match=r"'bad'.*special token '<\|.*take the token out of the text"):
        processor.encode(problem("bad", f"<image>what is {token}?", (56, 56)))


@pytest.mark.parametrize("question", ["what?", "<image><image>what?"])
def test_marks_that_do_not_match_the_pictures_are_refused(processor: Processor, question: str) -> None:
    with pytest.raises(
        FovealError, match="'bad': . <image> marks for 1 pictures; expected one mark per picture"
    ):
        processor.encode(problem("bad", question, (56, 56)))


def test_a_template_that_leaves_pictures_out_is_refused(processor: Processor) -> None:
    processor.tokenizer.chat_template = "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
    with pytest.raises(FovealError, match="0 picture placeholders for 1 pictures.*check the chat template"):
        processor.encode(ONE)


def test_a_picture_two_hundred_times_as_wide_as_high_is_refused(processor: Processor) -> None:
    with pytest.raises(FovealError, match="4200 x 20 pixels is too narrow"):
        processor.pixels([picture(4200, 20)])


def without_template(folder: Path, to: Path) -> Path:
    copy = shutil.copytree(folder, to)
    (copy / "chat_template.jinja").unlink()
    return copy


def test_a_template_in_chat_template_json_is_found(tiny_folder: Path, policy: Policy, tmp_path: Path) -> None:
    folder = without_template(tiny_folder, tmp_path / "model")
    template = (tiny_folder / "chat_template.jinja").read_text()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    found = Processor(folder, policy.family).encode(TWO).prompt
    assert torch.equal(found.token_ids, policy.processor.encode(TWO).prompt.token_ids)


def test_a_folder_without_a_template_is_refused(tiny_folder: Path, policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(FovealError, match="has no chat template; expected `chat_template`"):
        Processor(without_template(tiny_folder, tmp_path / "model"), policy.family)


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json"])
def test_a_folder_without_tokenizer_or_picture_settings_is_refused(
    tiny_folder: Path, policy: Policy, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(FovealError, match="tokenizer or the picture settings of .* cannot be read"):
        Processor(folder, policy.family)


def test_end_tokens_are_those_of_the_generation_config_else_of_the_tokenizer(
    tiny_folder: Path, policy: Policy, tmp_path: Path
) -> None:
    ids = policy.processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert policy.processor.end_ids == tuple(ids)
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    (folder / "generation_config.json").unlink()
    assert Processor(folder, policy.family).end_ids == (ids[0],)


def test_decoded_text_leaves_special_tokens_out(policy: Policy) -> None:
    tokenizer = policy.processor.tokenizer
    ids = tokenizer("red circles<|im_end|>", add_special_tokens=False)["input_ids"]
    assert policy.processor.decode(ids) == "red circles"


def test_reference_model_uses_another_attention_than_the_policy(policy: Policy) -> None:
    """Else the comparisons above would compare a thing with itself."""
    model = AutoModelForImageTextToText.from_pretrained(policy.processor.folder, attn_implementation="sdpa")
    names = [
        model.config.vision_config._attn_implementation,
        policy.model.config.vision_config._attn_implementation,
    ]  # type: ignore[union-attr]
    assert names[0] == "sdpa"
    assert names[1] not in ("sdpa", "eager")
