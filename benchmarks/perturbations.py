"""Pictures a second under each perturbation, in CPU seconds, one thread. Prints a table.

    python benchmarks/perturbations.py --json perturbations.json
    python benchmarks/perturbations.py --saliency       # also DINOv2's map, random weights of the base size

Pictures are smoothed noise in RGB. In each round every perturbation runs for at least `--least` CPU seconds,
one after the other; the number is the median over rounds. The salient mask is given its map: what the map
costs is a row of its own, and is paid once a picture, since maps are kept. `copy` is the least that any
perturbation pays.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import given


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sides", type=given.count, nargs="+", default=[336, 1024], help="pixels of square pictures"
    )
    parser.add_argument("--rounds", type=given.count, default=7)
    parser.add_argument("--least", type=float, default=0.1, help="CPU seconds of a perturbation in a round")
    parser.add_argument("--only", nargs="*", help="names of rows; default: all")
    parser.add_argument("--saliency", action="store_true", help="measure DINOv2's map too (slow)")
    parser.add_argument("--json", type=given.file, help="also write the numbers to this file")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    names: list[str] = []
    rates: dict[int, dict[str, float]] = {}
    for side in args.sides:
        runs = rows(side, saliency=args.saliency)
        runs = {name: run for name, run in runs.items() if not args.only or name in args.only}
        for run in runs.values():
            run(0)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for round_number in range(args.rounds):
            for name, run in runs.items():
                seconds[name].append(cost(run, least=args.least, first=1000 * round_number))
        rates[side] = {name: 1 / statistics.median(found) for name, found in seconds.items()}
        names = list(runs)
    print("| pictures/s | " + " | ".join(f"{side} x {side}" for side in args.sides) + " |")
    print("|---|" + "---|" * len(args.sides))
    for name in names:
        print(f"| {name} | " + " | ".join(shown(rates[side][name]) for side in args.sides) + " |")
    if args.json:
        settings = {"rounds": args.rounds, "least_cpu_s": args.least, "threads": 1}
        with open(args.json, "w") as file:
            json.dump({"machine": machine(), **settings, "pictures_per_cpu_s": rates}, file, indent=1)


def shown(rate: float) -> str:
    """Three digits."""
    return f"{float(f'{rate:.3g}'):,.0f}" if rate >= 100 else f"{rate:.3g}"


def machine() -> str:
    """The processor, where Linux names it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cost(run: Callable[[int], object], *, least: float, first: int) -> float:
    """CPU seconds of one picture."""
    began, count = time.process_time(), 0
    while time.process_time() - began < least:
        run(first + count)
        count += 1
    return (time.process_time() - began) / count


def rows(side: int, *, saliency: bool) -> dict[str, Callable[[int], object]]:
    """What is measured, by name; each takes the number of the picture, its key."""
    import numpy as np
    from PIL import Image, ImageFilter

    from foveal.keys import generator
    from foveal.perturbations import REGISTRY
    from foveal.perturbations.chain import build_perturbation
    from foveal.perturbations.pictures import to_rgb
    from foveal.types import Perturbation, PerturbationContext

    draw = np.random.default_rng(0)
    noise = Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
    image = noise.filter(ImageFilter.GaussianBlur(3))
    cells = draw.random((min(side // 14, 32), min(side // 14, 32)))
    kinds: dict[str, dict[str, object]] = {
        name: {} for name in REGISTRY if name not in ("chain", "random_choice")
    }
    kinds["salient_mask"] = {"model": "given"}
    kinds["perspective"] = {"probability": 1.0}
    tables = {name: {"type": name, **fields} for name, fields in kinds.items()}
    for fill in ("mean", "background"):
        tables[f"patch_mask, {fill}"] = {"type": "patch_mask", "fill": fill}
    tables["occlusion, grey"] = {"type": "occlusion", "fill": "grey"}

    def of(table: dict[str, object]) -> Callable[[int], object]:
        perturbation: Perturbation = build_perturbation(table)
        context = PerturbationContext(
            donors=(image.resize((side // 2, side)),),
            saliency={source: cells for source in perturbation.saliency_sources},
        )
        return lambda key: perturbation(image, rng=generator(key), context=context)

    found: dict[str, Callable[[int], object]] = {"copy": lambda _: to_rgb(image)}
    found |= {name: of(table) for name, table in tables.items()}
    if saliency:
        found["DINOv2-base map"] = saliency_row(image)
    return found


def saliency_row(image: object) -> Callable[[int], object]:
    """The map of a model of DINOv2-base's size with random weights."""
    from transformers import Dinov2Config, Dinov2Model

    from foveal.saliency import SaliencyModel
    from foveal.types import SaliencySource

    with tempfile.TemporaryDirectory() as folder:
        Dinov2Model(Dinov2Config(image_size=518)).save_pretrained(folder)
        model = SaliencyModel(SaliencySource(model=folder, layers=(6, 7, 8, 9), max_patches=1024))
    return lambda _: model._received(image)  # past the maps that are kept


if __name__ == "__main__":
    main()
