"""Write a model folder with random weights, for the benchmarks that need one.

    python benchmarks/checkpoint.py --shape 33m --out build/33m

What a step costs does not depend on what the model knows. The folder opens with transformers.
"""

import argparse
from pathlib import Path
from typing import Any


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    from gpu_model import SHAPES

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=tuple(SHAPES), default="33m", help="by number of parameters")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist, or is empty")
    found = parser.parse_args(words)
    if found.out.exists() and not (found.out.is_dir() and not any(found.out.iterdir())):
        parser.error(f"--out {found.out} is there already; expected a new folder")
    return found


def write(shape: str, out: Path) -> int:
    """Write the folder; the number of parameters."""
    import torch
    from gpu_model import CORPUS, maker

    from foveal.worlds.tiny import save_folder, train_tokenizer

    with maker(shape, torch.device("cpu")) as made:
        model: Any = made.model(torch.float32, made.config())
    save_folder(model, train_tokenizer(CORPUS), out)
    return sum(weight.numel() for weight in model.parameters())


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    print(f"{args.out}: Qwen2.5-VL with {write(args.shape, args.out):,} random parameters")


if __name__ == "__main__":
    main()
