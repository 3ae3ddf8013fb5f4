"""Peak memory of the head alone, forward and backward, as the number of tokens grows.

    python benchmarks/head_memory.py --rows 128 512 2048 8192

Log-probabilities and entropies of a vocabulary of 151,936 words in float32 from random hidden states, and
their gradients by states and weights: by the library (`plain`, or `compiled`), and with all logits at once
(`whole`: log_softmax and autograd, as one would write it; `--most` bounds its rows). Each number is that of a
process of its own: resident memory at its peak, above what the inputs hold. Beside it is what the gradients
and the two results take, which nothing can do without. Behind each way is what a row more costs, between the
two largest numbers of rows. Linux only.
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import given
import lines

MIB = 2**20
WAYS = ("plain", "compiled", "whole")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=given.count, nargs="+", default=[128, 512, 2048, 8192])
    parser.add_argument("--words", type=given.count, default=151_936)
    parser.add_argument("--width", type=given.count, default=64, help="of the hidden states")
    parser.add_argument(
        "--ways", nargs="+", choices=("plain", "compiled", "whole"), default=["plain", "whole"]
    )
    parser.add_argument("--most", type=given.count, default=512, help="rows of `whole`")
    parser.add_argument("--json", type=given.file, help="also append the line to this file")
    found = parser.parse_args(words)
    if min(*found.rows, found.words, found.width) < 1 or len(set(found.rows)) < 2:
        parser.error("expected --words, --width and at least two different --rows, all above 0")
    return found


def peak(way: str, rows: int, words: int, width: int) -> dict[str, float]:
    """MiB above the inputs, MiB that any way must make, and CPU seconds."""
    import torch

    from foveal.policy.head import token_stats

    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=draw).requires_grad_()
    weight = torch.randn(words, width, generator=draw).div_(width**0.5).requires_grad_()
    targets = torch.randint(words, (rows,), generator=draw)

    def run(hidden: Any, targets: Any) -> list[Any]:  # noqa: ANN401
        if way == "whole":
            logs = torch.log_softmax(hidden @ weight.t(), -1)
            logprobs, entropy = logs.gather(-1, targets[:, None]), -(logs.exp() * logs).sum(-1)
        else:
            logprobs, entropy = token_stats(hidden, weight, None, targets, temperature=1.0, path=way)
        return [logprobs, entropy, *torch.autograd.grad(logprobs.sum() + entropy.sum(), (hidden, weight))]

    # The first call makes what stays: buffers of the matrix product, threads, compiled code.
    run(hidden[:2], targets[:2])
    Path("/proc/self/clear_refs").write_text("5")
    before, began = _status("VmRSS"), time.process_time()
    kept = run(hidden, targets)
    return {
        "peak_mib": _status("VmHWM") - before,
        "needed_mib": sum(x.nbytes for x in kept) / MIB,
        "cpu_s": time.process_time() - began,
    }


def _status(name: str) -> float:
    """Resident memory now (VmRSS) or at its peak since it was reset (VmHWM), MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {name}; this needs Linux")


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    found: dict[str, dict[int, dict[str, float]]] = {way: {} for way in args.ways}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for way in args.ways:
            for rows in sorted(args.rows):
                if way != "whole" or rows <= args.most:
                    found[way][rows] = pool.submit(peak, way, rows, args.words, args.width).result()
    print("| way | rows | peak above the inputs, MiB | results and gradients, MiB | CPU s |", file=sys.stderr)
    print("|---|---|---|---|---|", file=sys.stderr)
    a_row_more = {}
    for way, by_rows in found.items():
        for rows, one in by_rows.items():
            cells = f"{one['peak_mib']:.0f} | {one['needed_mib']:.0f} | {one['cpu_s']:.2f}"
            print(f"| {way} | {rows} | {cells} |", file=sys.stderr)
        if len(by_rows) > 1:
            (fewer, first), (more, last) = list(by_rows.items())[-2:]
            a_row_more[way] = 1024 * (last["peak_mib"] - first["peak_mib"]) / (more - fewer)
            print(f"| {way} | a row more | {a_row_more[way]:.3g} KiB | | |", file=sys.stderr)
    lines.end(
        {"words": args.words, "width": args.width, "peak": found, "a_row_more_kib": a_row_more}, args.json
    )


if __name__ == "__main__":
    main()
