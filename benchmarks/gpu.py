"""One command for one data-centre GPU, without network: is it right, how fast is it, what fits.

    python benchmarks/gpu.py --shape 3b --json gpu-3b.json
    python benchmarks/gpu.py --shape tiny --device cpu        # the same code on a CPU, in a minute

Random weights in the published shapes of Qwen2.5-VL-3B and -7B; needs torch and transformers alone. It checks
the shared forward against transformers' own in float32 and bfloat16, then measures a step of GRPO, PAPO and
CPPO by phase with its share of the device's arithmetic, with prompts held from sampling for the update and
without; one group's update packed (by each way to attend), over a held prompt, with a cached prefix, and
plain; the head plain, compiled, and by fused kernels of others that are installed; the sampler against the
memory's bandwidth; the longest context that fits.
A part that runs out of memory or fails is reported as such and the rest goes on. Prints a table and writes a
JSON after each part; ends with 1 where a part failed or a check did not hold.
"""

import argparse
import gc
import json
import math
import platform
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import given
import torch
import transformers
from gpu_head import HEAD_NUMBERS, HEADS, heads
from gpu_model import SHAPES, maker
from gpu_parts import Numbers, Work, correctness, longest, machine, sampler, ways
from gpu_step import step
from transformers.utils.logging import disable_progress_bar

import foveal

OBJECTIVES = ("grpo", "papo", "cppo")
DECODES = ("eager", "graph")

WAYS = ("packed", "tiled", "dense", "held", "cached", "plain")

STEPS = (*OBJECTIVES, "grpo, nothing held")
"""Objectives, each as a run makes its steps; and GRPO that takes nothing from sampling for the update."""

PUBLISHED_TFLOPS = {
    **{"B200": 2250, "GH200": 989, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989},
    **{"A100": 312, "L40S": 362},
}
"""Dense bfloat16 rates of vendors' data sheets; the first name that is part of the device's counts."""

DEFAULTS = {
    "3b": {"prompts": 4, "visual_tokens": 256, "response": 512, "steps": 3, "longest": 128_000},
    "7b": {"prompts": 4, "visual_tokens": 256, "response": 512, "steps": 3, "longest": 128_000},
    "33m": {"prompts": 2, "visual_tokens": 256, "response": 64, "steps": 3, "longest": 4096},
    "1m": {"prompts": 4, "visual_tokens": 16, "response": 64, "steps": 3, "longest": 4096},
    "tiny": {"prompts": 2, "visual_tokens": 16, "response": 16, "steps": 1, "longest": 256},
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=tuple(SHAPES), default="3b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--prompts", type=given.count, help="of a step")
    parser.add_argument("--group", type=given.count, default=8, help="completions a prompt; at least 2")
    parser.add_argument(
        "--visual-tokens", type=given.count, help="of each prompt's one picture; a square number"
    )
    parser.add_argument("--response", type=given.count, help="tokens of each completion")
    parser.add_argument("--steps", type=given.count, help="measured, after one more")
    parser.add_argument(
        "--micro-batch-tokens",
        type=given.count,
        default=20480,
        help="prompts are held where a step fits these",
    )
    parser.add_argument("--no-checkpointing", action="store_true", help="of activations, in the steps")
    parser.add_argument(
        "--longest", type=given.count, help="tokens at which the search for the longest stops"
    )
    parser.add_argument("--json", type=lambda text: Path(given.file(text)), help="where the numbers go")
    found = parser.parse_args()
    for name, value in DEFAULTS[found.shape].items():
        if getattr(found, name) is None:
            setattr(found, name, value)
    if math.isqrt(found.visual_tokens) ** 2 != found.visual_tokens:
        parser.error("--visual-tokens must be a square number")
    if found.group < 2 or found.response < 8:
        parser.error("expected --group of 2 or more and --response of 8 or more")
    try:
        torch.device(found.device)
    except RuntimeError as error:
        parser.error(f"--device {found.device}: {str(error).splitlines()[0]}")
    if found.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {found.device}: this torch ({torch.__version__}) sees no CUDA device")
    return found


def main() -> int:
    args = arguments()
    disable_progress_bar()
    device = torch.device(args.device)
    report = _header(args, device)
    with maker(args.shape, device) as made:
        work = Work(
            maker=made,
            dtype=getattr(torch, args.dtype),
            prompts=args.prompts,
            group=args.group,
            visual_tokens=args.visual_tokens,
            response=args.response,
            steps=args.steps,
            micro_batch_tokens=args.micro_batch_tokens,
            checkpointing=not args.no_checkpointing,
            longest=args.longest,
        )
        measured = run_part(report, args.json, "machine", lambda: machine(work))
        run_part(report, args.json, "correctness", lambda: correctness(work))
        for name in STEPS:
            objective, _, again = name.partition(", ")
            run_part(
                report,
                args.json,
                f"step {name}",
                lambda objective=objective, again=again: step(work, objective, hold=not again),
            )
        for name in WAYS:
            run_part(report, args.json, f"one group {name}", lambda name=name: ways(work, name))
        for name in HEADS:
            run_part(report, args.json, f"head {name}", lambda name=name: heads(work, name))
        rate = measured.get("memory_gb_s")
        for name in decodes(device):
            run_part(report, args.json, f"sampler {name}", lambda name=name: sampler(work, rate, name))
        run_part(report, args.json, "longest", lambda: longest(work, is_out_of_memory))
    report["summary"] = summary(report)
    _write(report, args.json)
    print("\n" + table(report))
    if args.json:
        print(f"\nnumbers in {args.json}")
    return int(not sound(report))


def decodes(device: torch.device) -> tuple[str, ...]:
    """The sampler's ways to decode that can be measured on a device."""
    return DECODES if device.type == "cuda" else DECODES[:1]


def run_part(report: Numbers, file: Path | None, name: str, part: Callable[[], Numbers]) -> Numbers:
    """Run a part and keep its numbers, or why there are none."""
    print(f"{name} ...", end=" ", flush=True)
    start = time.perf_counter()
    try:
        found = part()
    except Exception as error:
        if is_out_of_memory(error):
            found = {"out_of_memory": str(error).splitlines()[0]}
        else:
            # Kept in the JSON: the machine may be gone by the time someone asks.
            found = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    found["part_s"] = round(time.perf_counter() - start, 2)
    if torch.cuda.is_available() or found.keys() & {"error", "out_of_memory"}:
        # What a failed part held is free only now that its traceback is.
        gc.collect()
        torch.cuda.empty_cache()
    report["parts"][name] = found
    _write(report, file)
    print(found.get("error") or found.get("out_of_memory") or f"{found['part_s']} s", flush=True)
    return found


def is_out_of_memory(error: Exception) -> bool:
    """Of a device, or of a CPU, whose allocator says it in words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _header(args: argparse.Namespace, device: torch.device) -> Numbers:
    found: Numbers = {
        "shape": args.shape,
        "published_shape": args.shape in ("3b", "7b"),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": platform.processor() or platform.machine(),
        "device_type": device.type,
        "versions": {
            "foveal": foveal.__version__,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "not_measured": [],
        "parts": {},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["device"] = properties.name
        found["device_memory_gib"] = round(properties.total_memory / 2**30, 1)
    else:
        found["not_measured"] = [
            "peak memory",
            "CUDA's flash kernels",
            "CUDA graphs",
            "share of a published rate",
        ]
    return found


def summary(report: Numbers) -> Numbers:
    """What follows from the parts; a number is left out where its part has none."""
    parts, found = report["parts"], Numbers()
    rate = parts["machine"].get("matmul_tflops")
    published = next((v for k, v in PUBLISHED_TFLOPS.items() if k in str(report["device"])), None)
    if report["device_type"] != "cuda" or report["settings"]["dtype"] != "bfloat16":
        published = None
    base = parts["step grpo"].get("train")
    for name in STEPS:
        part = parts[f"step {name}"]
        if "train" not in part:
            continue
        reached = part["flops"] / part["train"] / 1e12
        found[name] = {"model_tflops": reached}
        if rate:
            found[name]["share_of_matmul"] = reached / rate
        if published:
            found[name]["mfu"] = reached / published
        if base and name != "grpo":
            found[name]["train_over_grpo"] = part["train"] / base
            found[name]["step_over_grpo"] = part["step"] / parts["step grpo"]["step"]
    rates = {name: parts.get(f"sampler {name}", {}).get("tokens_per_s") for name in DECODES}
    if rates["eager"] and rates["graph"]:
        found["decode_graph_over_eager"] = rates["graph"] / rates["eager"]
    packed = parts["one group packed"].get("seconds")
    for name in WAYS:
        if packed and "seconds" in parts[f"one group {name}"]:
            found.setdefault("seconds_over_packed", {})[name] = parts[f"one group {name}"]["seconds"] / packed
    return found


def table(report: Numbers) -> str:
    """The report in Markdown."""
    parts, found = report["parts"], report["summary"]
    settings = report["settings"]
    lines = [
        f"Qwen2.5-VL {report['shape']}, {settings['dtype']}, {report['device']}, torch "
        f"{report['versions']['torch']}: {settings['prompts']} prompts x {settings['group']} completions, "
        f"{settings['visual_tokens']} visual and {settings['response']} completion tokens each",
        "",
        "| step, seconds | sample | score | forward | backward | optimizer | step "
        "| of matmul | MFU | over GRPO | peak GiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    phases = ("sample", "score", "forward", "backward", "optimizer", "step")
    for name in STEPS:
        part, more = parts[f"step {name}"], found.get(name, {})
        cells = [_cell(part, phase) for phase in phases]
        cells += [_cell(more, key) for key in ("share_of_matmul", "mfu", "step_over_grpo")]
        lines.append(_row(name, [*cells, _cell(part, "peak_gib")]))
    lines += [
        "",
        "| one group, update | seconds | over packed | peak GiB | attention |",
        "|---|---|---|---|---|",
    ]
    for name in WAYS:
        part, ratios = parts[f"one group {name}"], found.get("seconds_over_packed", {})
        cells = [_cell(part, "seconds"), _cell(ratios, name), _cell(part, "peak_gib"), _cell(part, "path")]
        lines.append(_row(name, cells))
    lines += _head_lines(parts)
    lines += ["", "| other | |", "|---|---|"]
    samplers = [name for name in parts if name.startswith("sampler ")]
    for name in ("machine", "correctness", *samplers, "longest"):
        part = parts[name]
        shown = {k: v for k, v in part.items() if v is not None and k not in ("part_s", "traceback")}
        lines += [_row(f"{name}: {key.replace('_', ' ')}", [_shown(value)]) for key, value in shown.items()]
    if "decode_graph_over_eager" in found:
        lines.append(
            _row("sampler: tokens a second, graph over eager", [_shown(found["decode_graph_over_eager"])])
        )
    if report["not_measured"]:
        lines += ["", f"Not measured on a {report['device_type']}: {', '.join(report['not_measured'])}."]
    return "\n".join(lines)


def _head_lines(parts: dict[str, Numbers]) -> list[str]:
    keys = ("rows", *HEAD_NUMBERS)
    lines = ["", _row("head, forward and backward", [key.replace("_", " ") for key in keys])]
    lines.append("|---" * (1 + len(keys)) + "|")
    for name in HEADS:
        part = parts[f"head {name}"]
        found = [_row(name, [_cell(one, key) for key in keys]) for one in part.get("measured", ())]
        none = [part.get("note") or _cell(part, "rows"), *[""] * len(HEAD_NUMBERS)]
        lines += found or [_row(name, none)]
    return lines


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _cell(part: Numbers, key: str) -> str:
    if part.get(key) is not None:
        return _shown(part[key])
    return "out of memory" if "out_of_memory" in part else "failed" if "error" in part else "-"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def sound(report: Numbers) -> bool:
    """No part failed, and the checks hold; out of memory is a result."""
    checks = report["parts"]["correctness"]
    held = all(value for key, value in checks.items() if key.endswith("_ok"))
    return held and not any("error" in part for part in report["parts"].values())


def _write(report: Numbers, file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
