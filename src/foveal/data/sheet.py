"""A contact sheet of any problems: pictures, and below them row, question and answer, to look at."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image as Images
from PIL import ImageDraw, ImageFont
from PIL.Image import Image

from foveal.types import IMAGE_MARK, Problem

COLUMNS = 4
TILE_PX = 356
PICTURE_PX = 224
"""Greatest height of a picture; several share the width of the tile."""
GAP_PX = 6
TEXT_PX = 13
LINE_PX = 17
LINE_CHARACTERS = 50
LINES = 8
"""Lines of a question; the rest is in the terminal."""
BACKGROUND, INK, FAINT, FRAME = (255, 255, 255), (20, 20, 24), (110, 110, 120), (200, 200, 206)


def contact_sheet(problems: Sequence[tuple[str, Problem]], *, suffix: str = "") -> Image:
    """One picture of problems, each with where it comes from; `suffix` is left out behind the questions."""
    tiles = [_tile(where, problem, suffix) for where, problem in problems]
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    height = sum(max(tile.height for tile in row) for row in rows)
    sheet = Images.new("RGB", (min(COLUMNS, len(tiles)) * TILE_PX, height), BACKGROUND)
    top = 0
    for row in rows:
        for column, tile in enumerate(row):
            sheet.paste(tile, (column * TILE_PX, top))
        top += max(tile.height for tile in row)
    return sheet


def save_sheet(sheet: Image, path: Path) -> None:
    """Write a PNG, whatever the name of the file ends in."""
    sheet.save(path, format="PNG")


def _tile(where: str, problem: Problem, suffix: str) -> Image:
    pictures = _fitted(problem.images)
    pieces = problem.question.removesuffix(suffix).split(IMAGE_MARK)
    # One picture needs no number; of several the text says which is meant.
    marks = [f"[picture {n}]" if len(problem.images) > 1 else "" for n in range(1, len(pieces))]
    question = "".join(part for pair in zip(pieces, [*marks, ""], strict=True) for part in pair).strip()
    asked = [
        line for part in question.split("\n") for line in textwrap.wrap(_drawable(part), LINE_CHARACTERS)
    ]
    if len(asked) > LINES:
        asked = [*asked[: LINES - 1], "..."]
    sizes = ", ".join(f"{image.width} x {image.height}" for image in problem.images) or "no picture"
    label = textwrap.wrap(_drawable(f"{where}: {sizes}"), LINE_CHARACTERS)[:2]
    answer = textwrap.wrap(_drawable(f"Answer: {problem.answer}"), LINE_CHARACTERS)[:2]
    lines = [*((line, FAINT) for line in label), *((line, INK) for line in (*asked, *answer))]
    text_top = max((picture.height for picture in pictures), default=0) + 2 * GAP_PX
    tile = Images.new("RGB", (TILE_PX, text_top + LINE_PX * len(lines) + 2 * GAP_PX), BACKGROUND)
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(TEXT_PX)
    left = GAP_PX
    for picture in pictures:
        tile.paste(picture, (left, GAP_PX))
        pen.rectangle((left - 1, GAP_PX - 1, left + picture.width, GAP_PX + picture.height), outline=FRAME)
        left += picture.width + GAP_PX
    for n, (line, colour) in enumerate(lines):
        pen.text((GAP_PX, text_top + n * LINE_PX), line, fill=colour, font=font)
    return tile


def _fitted(images: Sequence[Image]) -> list[Image]:
    """The pictures in the width of a tile, in proportion; small ones are enlarged up to four times."""
    if not images:
        return []
    room = (TILE_PX - GAP_PX * (len(images) + 1)) / len(images)
    found = []
    for image in images:
        scale = min(room / image.width, PICTURE_PX / image.height, 4.0)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        found.append(image.convert("RGB").resize(size, Images.Resampling.LANCZOS))
    return found


def _drawable(text: str) -> str:
    """The text in letters that Pillow's own font has; runs of others become a mark of their number."""
    found, run = [], 0
    for letter in text + " ":
        code = ord(letter)
        if code < 0x250 or 0x2010 <= code <= 0x2027 or letter in "√π°≤≥≠∞∑∫µ×÷":
            if run:
                found.append(f"[{run} letters]")
                run = 0
            found.append(letter if letter.isprintable() else " ")
        else:
            run += 1
    return "".join(found).strip()
