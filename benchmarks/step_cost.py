"""What one training step costs, in CPU seconds: sampling, scoring, update. Prints one JSON line.

    python benchmarks/step_cost.py --checkpoint DIR --visual-tokens 16 --response 64 --objective grpo
    python benchmarks/step_cost.py --checkpoint DIR --response 8..256 --objective cppo --gated 0.125 --flops

Every completion has exactly `--response` tokens, or a length drawn uniformly from LOW..HIGH by the seed;
AdamW at a constant 1e-4, no reference policy. Seconds and counts are medians over the steps after the
warm-up. With `--flops` one more step is run under a counter, outside the medians. `compare.py` alternates
this with another trainer's command on the same checkpoint; docs/performance.md says what each field is.
"""

import argparse
import resource
import statistics
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import flops
import given
import lines
import meters
import workload

PHASES = ("sample", "reward", "collate", "score", "update", "backward", "optimizer", "other")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="Qwen2.5-VL folder")
    parser.add_argument(
        "--visual-tokens", type=given.count, default=16, help="of each prompt's one picture; a square number"
    )
    parser.add_argument("--response", default="64", help="tokens of each completion, or LOW..HIGH")
    parser.add_argument("--prompts", type=given.count, default=4)
    parser.add_argument("--group", type=given.count, default=8)
    parser.add_argument("--objective", choices=workload.OBJECTIVES, default="grpo")
    parser.add_argument(
        "--gated", type=float, help="share of completions with a positive advantage; 1 turns CPPO's gate off"
    )
    parser.add_argument("--steps", type=given.count, default=6)
    parser.add_argument("--warmup", type=given.natural, default=1, help="steps left out of the medians")
    parser.add_argument("--micro-batch-tokens", type=given.count, default=1 << 20)
    parser.add_argument("--view-graphs", choices=("auto", "together", "apart"), default="auto")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument(
        "--prompts-again",
        action="store_true",
        help="run the prompts again in the update, instead of holding their graph from sampling",
    )
    parser.add_argument(
        "--products-again",
        action="store_true",
        help="make the linear layers' products of completions again in the update, instead of taking those "
        "of sampling",
    )
    parser.add_argument(
        "--linears", choices=("torch", "onednn", "auto"), default="torch", help="as [model] linears of a run"
    )
    parser.add_argument("--flops", action="store_true", help="count FLOPs in one more step")
    parser.add_argument("--threads", type=given.count, default=1)
    parser.add_argument("--seed", type=given.natural, default=0)
    parser.add_argument("--json", type=given.file, help="also append the line to this file")
    found = parser.parse_args(words)
    if not 0 <= found.warmup < found.steps:
        parser.error(f"--warmup is {found.warmup}; expected fewer than --steps, {found.steps}")
    workload.resolve(found, parser, shares=() if found.gated is None else (found.gated,))
    return found


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step did and cost."""

    seconds: float
    wall: float
    counted: Counter[str]
    tokens: int
    prompt_tokens: int
    trained: float
    """Share of completions that the update ran."""
    gated: float | None
    """Share of completions that CPPO ran under its perturbed views."""
    floor: dict[str, int]
    """FLOPs that each phase needs."""
    held: int
    """FLOPs of the update's prompts, which were held from sampling."""
    recorded: int
    """FLOPs of the update's products of completions, which were recorded in sampling, less those that check
    them."""


class Bench:
    """A policy, its sampler and an objective, ready to step."""

    def __init__(self, args: argparse.Namespace) -> None:

        from foveal.policy.linears import Linears
        from foveal.rollout.local import LocalEngine
        from foveal.train.graphs import kept_for_update
        from foveal.train.linears import measure_linears
        from foveal.train.settings import StepSettings
        from foveal.train.setup import adamw
        from foveal.types import Sampling

        self.args = args
        self.objective = workload.objective(args.objective, gated=args.gated)
        self.perturbations = workload.perturbations()
        self.policy = workload.load(args.checkpoint)
        self.linears = measure_linears(args.linears, self.policy)["linears"]
        self.policy.use_linears(Linears.of(self.linears))
        if args.checkpointing:
            model: Any = self.policy.model
            newer = getattr(model, "activation_checkpointing_enable", None)
            (newer or model.gradient_checkpointing_enable)()
        self.widths = flops.Widths.of(self.policy.model.config)
        self.engine = LocalEngine(self.policy)
        self.optimizer = adamw(self.policy, lr=1e-4)
        self.settings = StepSettings(
            temperature=1.0,
            micro_batch_tokens=args.micro_batch_tokens,
            view_graphs=args.view_graphs,
            hold_prompts="never" if args.prompts_again else "auto",
            hold_products="never" if args.products_again else "auto",
        )
        # An end token is banned until after the last one, so that only the set length ends a completion.
        longest = args.limits[1]
        sampling = Sampling(
            group_size=args.group, max_new_tokens=longest, min_new_tokens=longest + 1, temperature=1.0
        )
        self.sampling = kept_for_update(sampling, self.objective, self.settings)
        self.phases = meters.Phases()

    def step(self, number: int, *, count_flops: bool = False) -> Step:
        args = self.args
        problems = [
            workload.problem(number * args.prompts + i, args.side, args.seed) for i in range(args.prompts)
        ]
        wanted = workload.lengths(args.limits, rows=args.prompts * args.group, seed=args.seed, step=number)
        self.phases.take()
        self.held = self.recorded = 0
        self.phases.flops = flops.counter() if count_flops else None
        seconds, wall = time.process_time(), time.perf_counter()
        with self.phases.flops or nullcontext():
            inputs, batch = self._run(problems, wanted, number)
        cost = time.process_time() - seconds, time.perf_counter() - wall
        if inputs.lengths.tolist() != wanted:
            raise SystemExit(f"completions of {inputs.lengths.tolist()} tokens; expected {wanted}")
        gated = self.objective.rows("removed", batch) if args.objective == "cppo" else None
        return Step(
            seconds=cost[0],
            wall=cost[1],
            counted=self.phases.take(),
            tokens=sum(wanted),
            prompt_tokens=max(len(prompt.token_ids) for prompt in inputs.prompts),
            trained=float(self.objective.needed(batch).float().mean()),
            gated=None if gated is None else float(gated.float().mean()),
            floor=self._floor(inputs, gated),
            held=flops.prompts(self.widths, flops.group_shapes(inputs)) if self.held else 0,
            recorded=flops.recorded(self.widths, flops.group_shapes(inputs)) if self.recorded else 0,
        )

    def _run(self, problems: list[Any], wanted: list[int], number: int) -> tuple[Any, Any]:
        from foveal.data.collate import collate
        from foveal.train.step import train_step

        phases, key = self.phases, (self.args.seed, number)
        with phases.phase("other"):
            with phases.phase("sample"), workload.ending_after(wanted):
                drawn = self.engine.generate(problems, sampling=self.sampling, key=key)
            self.held, self.recorded = self.policy.held.tokens, len(self.policy.held.products)
            with phases.phase("reward"):
                groups = [
                    workload.grade(of, found, gated=self.args.gated)
                    for of, found in zip(problems, drawn, strict=True)
                ]
            with phases.phase("collate"):
                inputs = collate(
                    groups,
                    processor=self.policy.processor,
                    views=self.objective.views,
                    perturbations=self.perturbations,
                    key=key,
                )
            result = train_step(self.policy, None, self.optimizer, inputs, self.objective, self.settings)
        return inputs, result.batch

    def _floor(self, inputs: Any, gated: Any) -> dict[str, int]:  # noqa: ANN401
        """FLOPs that each phase needs: GRPO's, and the passes that looking costs."""
        groups = flops.group_shapes(inputs)
        scored, trained = [], [groups]
        if self.args.objective in ("papo", "papo_d"):
            scored = [groups]
        if gated is not None:
            chosen = flops.group_shapes(inputs, gated)
            scored, trained = [chosen], [groups, chosen, chosen]
        forward = sum(flops.no_gradient_pass(self.widths, part) for part in trained)
        return {
            "sample": flops.sampling(self.widths, groups),
            "score": sum(flops.no_gradient_pass(self.widths, part) for part in scored),
            "update": forward,
            "backward": sum(flops.gradient_pass(self.widths, part) for part in trained) - forward,
        }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All steps of a run, and the line that is printed."""
    import torch
    import transformers

    bench = Bench(args)
    with meters.watching(bench.policy, bench.phases):
        kept = [bench.step(number) for number in range(args.steps)][args.warmup :]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        counted = bench.step(args.steps, count_flops=True) if args.flops else None
    seconds, wall = statistics.median(s.seconds for s in kept), statistics.median(s.wall for s in kept)
    tokens = statistics.mean(s.tokens for s in kept)
    last = counted or kept[-1]
    total = sum(last.counted[f"flops/{name}"] for name in PHASES) if counted else None
    needed = sum(last.floor.values())
    return {
        "trainer": "foveal",
        **{
            name: getattr(args, name)
            for name in (
                "objective",
                "checkpoint",
                "visual_tokens",
                "response",
                "prompts",
                "group",
                "threads",
                "steps",
                "checkpointing",
                "prompts_again",
                "products_again",
                "view_graphs",
                "micro_batch_tokens",
            )
        },
        "linears": bench.linears,
        "prompt_tokens": last.prompt_tokens,
        "mean_length": round(tokens / (args.prompts * args.group), 2),
        "cpu_seconds_per_step": round(seconds, 4),
        "seconds_per_step": round(wall, 4),
        "tokens_per_cpu_s": round(tokens / seconds, 1),
        "peak_rss_mib": round(peak, 1),
        "phases": {name: round(_median(kept, f"s/{name}"), 4) for name in PHASES},
        "counts": {
            key: round(_median(kept, key))
            for key in sorted({key for s in kept for key in s.counted})
            if key.startswith(("images/", "lm_positions/"))
        },
        "trained_share": round(statistics.mean(s.trained for s in kept), 4),
        "gated_share": None if last.gated is None else round(statistics.mean(s.gated for s in kept), 4),
        "flops": total,
        "floor_flops": needed,
        "flops_over_floor": round(total / needed, 4) if total else None,
        "held_flops": last.held,
        "recorded_flops": last.recorded,
        "flops_phases": {n: last.counted[f"flops/{n}"] for n in PHASES} if counted else None,
        "floor_phases": last.floor,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _median(steps: list[Step], key: str) -> float:
    return statistics.median(step.counted[key] for step in steps)


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    workload.settle(args.threads)
    lines.end(measure(args), args.json)


if __name__ == "__main__":
    main()
