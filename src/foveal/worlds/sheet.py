"""A contact sheet: pictures, questions and answers of the worlds side by side, to look at."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont
from PIL.Image import Image

from foveal.types import IMAGE_MARK, Problem
from foveal.worlds.base import Split, WorldError, WorldSettings
from foveal.worlds.problems import DEFAULT_SETTINGS, FAMILIES, make_problem

COLUMNS = 4
TILE_PX = 356
PICTURE_PX = 224
"""Height to which square pictures are enlarged; wide and several pictures share the width of the tile."""
GAP_PX = 6
TEXT_PX = 14
LINE_PX = 18
LINE_CHARACTERS = 46
BACKGROUND, INK, FAINT = (255, 255, 255), (20, 20, 24), (110, 110, 120)


def write_contact_sheet(
    path: str | Path,
    *,
    families: Sequence[str] = tuple(FAMILIES),
    n: int = 8,
    seed: int = 0,
    split: Split = "train",
    settings: WorldSettings = DEFAULT_SETTINGS,
) -> Path:
    """Write `n` problems of each family to a PNG: pictures, and below them question, answer, grade.

    Raises: WorldError when nothing would be shown, or for an unknown family.
    """
    if n < 1 or not families:
        raise WorldError(
            f"a contact sheet of {n} problems of {len(families)} families is empty; n must be at least 1"
        )
    tiles = [
        _tile(make_problem(family, split=split, seed=seed, index=i, settings=settings))
        for family in families
        for i in range(n)
    ]
    # Each family starts a new row, and a row is as high as its highest tile.
    rows = [
        tiles[start + first : start + min(first + COLUMNS, n)]
        for start in range(0, len(tiles), n)
        for first in range(0, n, COLUMNS)
    ]
    height = sum(max(tile.height for tile in row) for row in rows)
    sheet = PilImage.new("RGB", (min(COLUMNS, n) * TILE_PX, height), BACKGROUND)
    top = 0
    for row in rows:
        for column, tile in enumerate(row):
            sheet.paste(tile, (column * TILE_PX, top))
        top += max(tile.height for tile in row)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, format="PNG")
    return target


def _tile(problem: Problem) -> Image:
    """One problem: its pictures in a row, and its text."""
    width = sum(image.width for image in problem.images)
    room = TILE_PX - GAP_PX * (len(problem.images) + 1)
    scale = min(room / width, PICTURE_PX / max(image.height for image in problem.images))
    pictures = [
        image.resize((round(image.width * scale), round(image.height * scale)), PilImage.Resampling.LANCZOS)
        for image in problem.images
    ]
    question = problem.question.replace(IMAGE_MARK, "").strip()
    asked = textwrap.wrap(question, LINE_CHARACTERS)
    thought = textwrap.wrap(problem.meta["chain_of_thought"], LINE_CHARACTERS)
    label = f"{problem.meta['family']} / {problem.meta['template']} / grade {problem.meta['grade']}"
    lines = [(label, FAINT), *((line, INK) for line in asked), (f"Answer: {problem.answer}", INK)]
    lines += [(line, FAINT) for line in thought]
    text_top = max(picture.height for picture in pictures) + 2 * GAP_PX
    tile = PilImage.new("RGB", (TILE_PX, text_top + LINE_PX * len(lines) + 2 * GAP_PX), BACKGROUND)
    left = GAP_PX
    for picture in pictures:
        tile.paste(picture, (left, GAP_PX))
        left += picture.width + GAP_PX
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(TEXT_PX)
    for i, (line, colour) in enumerate(lines):
        pen.text((GAP_PX, text_top + i * LINE_PX), line, fill=colour, font=font)
    return tile
