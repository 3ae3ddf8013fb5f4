"""How fast data is checked before a run: rows per second, first and again, by kind of picture and threads.

    python benchmarks/data_check.py --rows 600 --workers 1 2

Writes JPEG and PNG files as data sets have them (a photo of 640 x 480, one of 1600 x 1200, a figure of 512 x
512), each with a JSONL file, and checks them as `foveal train` does: text, headers, decoding, prompt lengths
by the tokenizer of the shipped model. Printed for each: rows per second of wall and of CPU time when nothing
is known (`decode`), when every picture is remembered (`again`) and with headers alone (`headers`). Wall times
need free cores.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import given
import numpy as np
import PIL.Image
import PIL.ImageDraw

from foveal.data.checks import Plan, look
from foveal.data.problems import FileProblems, open_data
from foveal.data.verdicts import Verdicts
from foveal.policy.processing import Processor
from foveal.policy.reader import load_processor
from foveal.train.setup import resolve_model

DISTINCT = 20
"""Pictures made; files repeat them under other names."""

KINDS = {
    "jpeg 640x480": (640, 480),
    "jpeg 1600x1200": (1600, 1200),
    "png figure 512x512": (512, 512),
}


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=given.count, default=600)
    parser.add_argument("--workers", type=given.count, nargs="+", default=[1, 2])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    return parser.parse_args(words)


def picture(kind: str, seed: int) -> PIL.Image.Image:
    draw, size = np.random.default_rng(seed), KINDS[kind]
    if kind.startswith("png"):
        figure = PIL.Image.new("RGB", size, "white")
        pen = PIL.ImageDraw.Draw(figure)
        for _ in range(30):
            pen.line([tuple(draw.integers(0, size[0], 2).tolist()) for _ in range(3)], fill="black", width=2)
        return figure
    coarse = draw.integers(0, 255, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
    smooth = np.asarray(PIL.Image.fromarray(coarse).resize(size)).astype(int)
    grain = draw.integers(-8, 8, smooth.shape)
    return PIL.Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def write(folder: Path, kind: str, rows: int) -> tuple[FileProblems, int]:
    """The data set, and the mean bytes of its pictures."""
    suffix = "png" if kind.startswith("png") else "jpg"
    folder.mkdir()
    made = []
    for seed in range(min(DISTINCT, rows)):
        place = folder / f"made-{seed}.{suffix}"
        picture(kind, seed).save(place, quality=90)
        made.append(place.read_bytes())
        place.unlink()
    lines = []
    for n in range(rows):
        (folder / f"{n}.{suffix}").write_bytes(made[n % len(made)])
        question = f"In the figure, what is the length of side {n} if the area is {n} square units?"
        lines.append(json.dumps({"question": question, "images": [f"{n}.{suffix}"], "answer": str(n)}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return open_data(str(folder / "rows.jsonl")), sum(map(len, made)) // len(made)


def timed(
    problems: FileProblems, processor: Processor, *, workers: int, decoded: bool, verdicts: Verdicts
) -> dict[str, float]:
    every = range(len(problems))
    plan = Plan(
        opened=every, decoded=every if decoded else (), length=processor.prompt_length, workers=workers
    )
    wall, cpu = time.perf_counter(), time.process_time()
    found = look(problems, plan, verdicts)
    verdicts.save()
    if found.bad:
        raise SystemExit(f"the benchmark's own data has bad rows: {found.bad[0].reason}")
    rows = len(problems)
    return {
        "wall": rows / (time.perf_counter() - wall),
        "cpu": rows / (time.process_time() - cpu),
    }


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(None if words is None else list(words))
    processor = load_processor(resolve_model("tiny"))
    found = []
    print("| picture | KB | threads | pass | rows per second | per CPU second |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FOVEAL_CACHE"] = str(Path(folder) / "cache")
        for kind in options.kinds:
            problems, size = write(Path(folder) / kind.replace(" ", "_"), kind, options.rows)
            time.sleep(0.1)  # a file that was written just now is not remembered
            for workers in options.workers:
                for name in ("decode", "again", "headers"):
                    verdicts = Verdicts(f"{kind} {workers}")
                    speed = timed(
                        problems, processor, workers=workers, decoded=name != "headers", verdicts=verdicts
                    )
                    found.append({"kind": kind, "workers": workers, "pass": name, **speed})
                    print(
                        f"| {kind} | {size // 1024} | {workers} | {name} | {speed['wall']:.0f} | "
                        f"{speed['cpu']:.0f} |"
                    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
