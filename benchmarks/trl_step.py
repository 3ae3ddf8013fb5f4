"""What one step of TRL's GRPOTrainer costs on the work of `step_cost.py`. Prints one JSON line.

    python3 -m venv build/trl
    build/trl/bin/pip install torch==2.13.0 torchvision trl==1.16.0 transformers==5.23.0 pillow
    build/trl/bin/python benchmarks/trl_step.py --checkpoint DIR --visual-tokens 256 --response 64 --prompts 2

Runs in an environment of its own and imports nothing of this library. The same checkpoint, sizes of pictures,
question, sampling (temperature 1, no truncation, picture placeholders suppressed) and fixed lengths; AdamW at
a constant 1e-4, one update a step, no reference model, no gradient checkpointing unless asked for (TRL's own
default is on, which costs more time). `compare.py` alternates the two.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import given
import lines
import workload

QUESTION = workload.QUESTION.removeprefix("<image>")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="Qwen2.5-VL folder")
    parser.add_argument("--visual-tokens", type=given.count, default=16, help="a square number")
    parser.add_argument("--response", type=given.count, default=64, help="tokens of each completion")
    parser.add_argument("--prompts", type=given.count, default=4)
    parser.add_argument("--group", type=given.count, default=8)
    parser.add_argument("--steps", type=given.count, default=3)
    parser.add_argument("--warmup", type=given.natural, default=1, help="steps left out of the medians")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--threads", type=given.count, default=1)
    parser.add_argument("--seed", type=given.natural, default=0)
    parser.add_argument("--json", type=given.file, help="also append the line to this file")
    found = parser.parse_args(words)
    if not 0 <= found.warmup < found.steps:
        parser.error(f"--warmup is {found.warmup}; expected fewer than --steps, {found.steps}")
    if found.group < 2:
        parser.error(f"--group is {found.group}; expected at least 2")
    if not (Path(found.checkpoint) / "config.json").is_file():
        parser.error(f"--checkpoint {found.checkpoint}: no config.json there; expected a model folder")
    try:
        found.side = workload.side_of(found.visual_tokens)
    except ValueError as error:
        parser.error(str(error))
    return found


def require_environment() -> None:
    """Ends with what is missing."""
    missing = [name for name in ("trl", "transformers", "datasets") if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"{sys.executable} has no {' and no '.join(missing)}; see --help for the environment"
        )


def rewarded(completions: list[Any], **given: object) -> list[float]:
    """The share of digits, and more for each place of a group: no completion has advantage 0."""
    texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
    return [
        sum(ch.isdigit() for ch in text) / max(1, len(text)) + 1e-3 * place**2
        for place, text in enumerate(texts)
    ]


def let_torchvision_import() -> None:
    """PyPI's torchvision is linked to CUDA: beside a CPU build of torch it stops at operators that are not
    there. The processors need only its plain parts, for which the operators' names are enough."""
    import torch

    if importlib.util.find_spec("torchvision") is None:
        return
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
    import torchvision  # noqa: F401


def problems(args: argparse.Namespace) -> Any:  # noqa: ANN401
    """A data set of the pictures that `step_cost.py` takes."""
    from datasets import Dataset, Features, Image, List, Value

    count = args.prompts * args.steps
    message = [{"role": "user", "content": QUESTION}]
    rows = {
        "prompt": [message] * count,
        "image": [workload.picture(i, args.side, args.seed) for i in range(count)],
    }
    kinds = {"prompt": List({"role": Value("string"), "content": Value("string")}), "image": Image()}
    return Dataset.from_dict(rows, features=Features(kinds))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(args.threads)
    let_torchvision_import()
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    seconds, walls = list[float](), list[float]()

    class Clock(TrainerCallback):
        """A step ends where the next one begins: sampling included."""

        def on_train_begin(self, *given: object, **more: object) -> None:
            self.begun = time.process_time(), time.perf_counter()

        def on_step_end(self, *given: object, **more: object) -> None:
            now = time.process_time(), time.perf_counter()
            seconds.append(now[0] - self.begun[0])
            walls.append(now[1] - self.begun[1])
            self.begun = now

    placeholder = json.loads((Path(args.checkpoint) / "config.json").read_text())["image_token_id"]
    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out,
            use_cpu=True,
            bf16=False,
            fp16=False,
            per_device_train_batch_size=args.prompts * args.group,
            gradient_accumulation_steps=1,
            num_generations=args.group,
            max_completion_length=args.response,
            temperature=1.0,
            beta=0.0,
            loss_type="grpo",
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            max_steps=args.steps,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=args.seed,
            gradient_checkpointing=args.checkpointing,
            model_init_kwargs={"dtype": "float32"},
            generation_kwargs={"suppress_tokens": [placeholder], "min_new_tokens": args.response},
        )
        trainer = GRPOTrainer(
            model=args.checkpoint, reward_funcs=rewarded, args=config, train_dataset=problems(args)
        )
        trainer.add_callback(Clock())
        # What TRL prints goes to standard error: the last line of standard output is the result.
        with contextlib.redirect_stdout(sys.stderr):
            trainer.train()
    kept = seconds[args.warmup :]
    sizes = (
        "checkpoint",
        "visual_tokens",
        "response",
        "prompts",
        "group",
        "threads",
        "steps",
        "checkpointing",
    )
    return {
        "trainer": "trl",
        **{name: getattr(args, name) for name in sizes},
        "cpu_seconds_per_step": round(statistics.median(kept), 4),
        "seconds_per_step": round(statistics.median(walls[args.warmup :]), 4),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "versions": {name: importlib.metadata.version(name) for name in ("trl", "torch", "transformers")},
    }


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    require_environment()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    lines.end(measure(args), args.json)


if __name__ == "__main__":
    main()
