"""A training loop of one's own with plain transformers: foveal gives the loss, and nothing else.

PAPO on one picture: completions are drawn with the picture and scored with and without it; tokens that the
picture makes likelier are paid. Run: python examples/04_own_loop.py
"""

from importlib import resources

import torch
from PIL import Image, ImageDraw
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import foveal

FOLDER = str(resources.files("foveal") / "assets" / "tiny")  # or any other Qwen2.5-VL folder
GROUP, ANSWER = 8, "red"

torch.manual_seed(0)
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
processor = Qwen2VLImageProcessorPil.from_pretrained(FOLDER)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

picture = Image.new("RGB", (112, 112), "white")
ImageDraw.Draw(picture).ellipse((30, 30, 82, 82), fill=ANSWER)
grey = Image.new("RGB", (112, 112), "grey")
pads = "<|image_pad|>" * (int(processor([picture], return_tensors="pt")["image_grid_thw"].prod()) // 4)
text = f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>Which?<|im_end|>\n<|im_start|>assistant\n"
prompts = tokenizer(text, return_tensors="pt")["input_ids"].expand(GROUP, -1)


def inputs(image, ids):
    types = (ids == model.config.image_token_id).long()  # without them positions are silently those of text
    return {
        "input_ids": ids,
        "mm_token_type_ids": types,
        **processor([image] * len(ids), return_tensors="pt"),
    }


def score(image, completions):
    logits = model(**inputs(image, torch.cat([prompts, completions], dim=1))).logits
    return foveal.losses.from_logits(logits[:, prompts.shape[1] - 1 : -1], completions)


for step in range(1, 4):
    drawn = model.generate(**inputs(picture, prompts), do_sample=True, max_new_tokens=12)
    completions = drawn[:, prompts.shape[1] :]
    ends = (completions == tokenizer.eos_token_id).int()
    mask = ends.cumsum(-1) - ends == 0  # everything up to the first end token, that one included
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    rewards = torch.tensor([float(ANSWER in text) for text in texts])
    with torch.no_grad():
        old, removed = score(picture, completions), score(grey, completions)
    now = score(picture, completions)
    loss, measures = foveal.losses.papo(
        now.logprobs,
        old.logprobs,
        foveal.losses.group_advantages(rewards, GROUP),
        mask,
        removed_logprobs=removed.logprobs,
        kl_prcp_coef=0.02,
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    seen = measures["kl_prcp/mean"]
    print(f"step {step}: reward {rewards.mean():.2f}, loss {loss:+.4f}, kl_prcp {seen:.3f}, {texts[0]!r}")
