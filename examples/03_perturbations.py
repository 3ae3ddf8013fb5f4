"""One picture under each perturbation: how much of it changes, and with a file name a sheet to look at.

python examples/03_perturbations.py sheet.png
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from foveal.keys import generator
from foveal.perturbations.chain import build_perturbation
from foveal.types import Perturbation, PerturbationContext
from foveal.worlds import WorldSettings, make_problem

SIDE, STORED, PATCH = 224, 180, 14
SHOWN, OTHER = 3, 1
COLUMNS, GAP, LINE = 5, 8, 20

TABLES: dict[str, dict[str, object] | str] = {
    "patch_mask": "patch_mask",
    'patch_mask, fill "grey"': {"type": "patch_mask", "fill": "grey"},
    "salient_mask (stand-in map)": {"type": "salient_mask", "model": "stand-in", "ratio": 0.3},
    "occlusion": "occlusion",
    "crop": "crop",
    "noise": "noise",
    "diffusion_noise, start": "diffusion_noise",
    "diffusion_noise, 65 % trained": "diffusion_noise",
    "blank": {"type": "blank", "fill": "grey"},
    "other_picture": "other_picture",
    "colour": "colour",
    "rotation": "rotation",
    "perspective": {"type": "perspective", "probability": 1.0},
    "blur": {"type": "blur", "size": 5, "sigma": 2.0},
    "random_choice: occlusion, crop": {"type": "random_choice", "options": ["occlusion", "crop"]},
    "chain: colour, rotation": {"type": "chain", "steps": ["colour", "rotation"]},
}


def picture(index: int, side: int) -> Image.Image:
    """A picture of a world."""
    problem = make_problem("relations", split="heldout", seed=1, index=index, settings=WorldSettings(noise=0))
    return problem.images[0].resize((side, side), Image.Resampling.LANCZOS)


def objects(image: Image.Image) -> np.ndarray:
    """How far each patch is from the corner's colour: stands in for the attention of a DINOv2 model."""
    cells = image.height // PATCH, image.width // PATCH
    pixels = np.asarray(image, dtype=np.float64)[: cells[0] * PATCH, : cells[1] * PATCH]
    return np.abs(pixels - pixels[0, 0]).reshape(cells[0], PATCH, cells[1], PATCH, 3).mean((1, 3, 4))


def perturbed(perturbation: Perturbation, image: Image.Image, *, progress: float = 0.0) -> Image.Image:
    """The picture, with all that a perturbation may ask for."""
    context = PerturbationContext(
        donors=(picture(OTHER, SIDE),),
        saliency={source: objects(image) for source in perturbation.saliency_sources},
        progress=progress,
    )
    return perturbation(image, rng=generator("sheet", 4), context=context)


def with_grid(image: Image.Image) -> Image.Image:
    """The model's patches drawn over the picture."""
    pen = ImageDraw.Draw(image)
    for place in range(0, SIDE, PATCH):
        pen.line((place, 0, place, SIDE), fill=(255, 0, 160))
        pen.line((0, place, SIDE, place), fill=(255, 0, 160))
    return image


image = picture(SHOWN, SIDE)
tiles = {"clean": image}
for name, table in TABLES.items():
    tiles[name] = perturbed(build_perturbation(table), image, progress=0.65 if "trained" in name else 0.0)
    changed = (np.asarray(tiles[name]) != np.asarray(image)).any(-1).mean()
    print(f"{name:32} {changed:4.0%} of the pixels changed")

# The model sees a picture of 180 pixels at 224: squares of the stored picture cut through its patches.
mask = build_perturbation({"type": "patch_mask", "patch": PATCH})
tiles["patch = 14, seen by the model"] = with_grid(
    perturbed(mask, picture(SHOWN, STORED)).resize((SIDE, SIDE))
)
tiles['patch = "model"'] = with_grid(perturbed(mask, picture(SHOWN, STORED).resize((SIDE, SIDE))))

rows = -(-len(tiles) // COLUMNS)
sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + LINE + GAP) + GAP), "white")
pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
for place, (name, tile) in enumerate(tiles.items()):
    left, top = GAP + place % COLUMNS * (SIDE + GAP), GAP + place // COLUMNS * (SIDE + LINE + GAP)
    pen.text((left, top), name, fill=(20, 20, 24), font=font)
    sheet.paste(tile, (left, top + LINE))
if len(sys.argv) > 1:
    sheet.quantize(256).save(Path(sys.argv[1]), optimize=True)
    print(f"written to {sys.argv[1]}")
