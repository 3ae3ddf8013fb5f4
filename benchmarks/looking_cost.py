"""What looking costs, in one process: PAPO and CPPO over GRPO, against the passes that they need.

    python benchmarks/looking_cost.py --checkpoint DIR --visual-tokens 16 --response 64 --rounds 7

In each round, in turn and from another place each time: a GRPO step, a PAPO step, one shared pass without
gradient under the removed view, and for each gated share a CPPO step, one pass without gradient over its
gated completions, of which it chooses tokens, and one shared gradient pass over those of which one was
chosen, which are what it runs under both other views. A step is a whole one, from sampling to the optimizer,
as a run makes it: prompts are held from sampling for the update where the method lets them be
(`--prompts-again`: nowhere). Learning rate 0 and one key, so that all steps do the same work on the same
completions. Printed:

    allowed: PAPO   GRPO + 1.1 x the pass without gradient
             CPPO   GRPO + 1.1 x two gradient passes + one pass without gradient, where tokens are chosen
    of what is allowed: a step as a share of that; the bar is 1
    added / needed: what a step adds to GRPO (without the pass that chooses), in the passes that it needs

as medians over rounds, with an interval of order statistics, and the same from FLOPs, which do not vary. A
JSON line follows the table.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import flops
import given
import lines
import workload
from spread import spread, verdict

BAR = 1.1
"""How much of the passes that it needs a method may cost."""


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="Qwen2.5-VL folder")
    parser.add_argument("--visual-tokens", type=given.count, default=16)
    parser.add_argument("--response", default="64", help="tokens of each completion, or LOW..HIGH")
    parser.add_argument("--prompts", type=given.count, default=4)
    parser.add_argument("--group", type=given.count, default=8)
    parser.add_argument("--gated", type=float, nargs="*", default=[0.125, 0.5, 1.0])
    parser.add_argument("--rounds", type=given.count, default=7)
    parser.add_argument("--micro-batch-tokens", type=given.count, default=1 << 20)
    parser.add_argument(
        "--prompts-again", action="store_true", help="hold no prompts from sampling for the update"
    )
    parser.add_argument(
        "--products-again", action="store_true", help="take no products from sampling for the update"
    )
    parser.add_argument("--threads", type=given.count, default=1)
    parser.add_argument("--seed", type=given.natural, default=0)
    parser.add_argument("--json", type=given.file, help="also append the result to this file")
    found = parser.parse_args(words)
    if found.rounds < 1:
        parser.error(f"--rounds is {found.rounds}; expected at least 1")
    workload.resolve(found, parser, shares=found.gated)
    return found


class Bench:
    """One policy and one batch of problems, and what is run on them."""

    def __init__(self, args: argparse.Namespace) -> None:

        from foveal.rollout.local import LocalEngine
        from foveal.train.settings import StepSettings
        from foveal.train.setup import adamw
        from foveal.types import Sampling

        self.args = args
        self.policy = workload.load(args.checkpoint)
        self.engine = LocalEngine(self.policy)
        self.optimizer = adamw(self.policy, lr=0.0)
        self.settings = StepSettings(
            temperature=1.0,
            micro_batch_tokens=args.micro_batch_tokens,
            hold_prompts="never" if args.prompts_again else "auto",
            hold_products="never" if args.products_again else "auto",
        )
        self.perturbations = workload.perturbations()
        self.problems = [workload.problem(i, args.side, args.seed) for i in range(args.prompts)]
        rows, longest = args.prompts * args.group, args.limits[1]
        self.wanted = workload.lengths(args.limits, rows=rows, seed=args.seed, step=0)
        self.sampling = Sampling(group_size=args.group, max_new_tokens=longest, min_new_tokens=longest + 1)

    def step(self, objective: Any, share: float) -> Any:  # noqa: ANN401
        """Completions, the pictures of all views, scoring and update; the batch as the update saw it."""
        from foveal.data.collate import collate
        from foveal.train.graphs import kept_for_update
        from foveal.train.step import train_step

        key = (self.args.seed, 0)
        sampling = kept_for_update(self.sampling, objective, self.settings)
        with workload.ending_after(self.wanted):
            completions = self.engine.generate(self.problems, sampling=sampling, key=key)
        inputs = collate(
            [
                workload.grade(of, found, gated=share)
                for of, found in zip(self.problems, completions, strict=True)
            ],
            processor=self.policy.processor,
            views=objective.views,
            perturbations=self.perturbations,
            key=key,
        )
        return train_step(self.policy, None, self.optimizer, inputs, objective, self.settings).batch

    def pass_over(self, inputs: Any, rows: Any, *, gradient: bool) -> None:  # noqa: ANN401
        """The removed view of some completions (Bool [B]), cut as a step is."""
        import torch

        from foveal.policy.forward import micro_batches
        from foveal.train.rows import select_inputs

        self.optimizer.zero_grad(set_to_none=False)
        chosen = rows.nonzero()[:, 0]
        for part in micro_batches(inputs, tokens=self.settings.micro_batch_tokens, rows=chosen):
            with nullcontext() if gradient else torch.no_grad():
                stats = self.policy(select_inputs(inputs, part), "removed")
            if gradient:
                stats.logprobs.sum().backward()


Runs = dict[str, Callable[[], Any]]


def runs_of(bench: Bench) -> tuple[Runs, dict[float, float]]:
    """What is measured, by name, and the gated share that each asked share gave."""
    grpo, papo = (workload.objective(name) for name in ("grpo", "papo"))
    inputs = bench.step(papo, 0.5).inputs
    every = inputs.completion_mask.any(-1)
    runs: Runs = {
        "grpo": lambda: bench.step(grpo, 0.5),
        "papo": lambda: bench.step(papo, 0.5),
        "no_gradient": lambda: bench.pass_over(inputs, every, gradient=False),
    }
    gated = {}
    for share in bench.args.gated:
        cppo = workload.objective("cppo", gated=share)
        batch = bench.step(cppo, share)
        rows, scored = cppo.rows("removed", batch), cppo.score_rows("removed", batch.inputs)
        gated[share] = float(rows.float().mean())
        runs |= {
            f"cppo@{share:g}": lambda cppo=cppo, share=share: bench.step(cppo, share),
            f"gradient@{share:g}": lambda b=batch, r=rows: bench.pass_over(b.inputs, r, gradient=True),
            f"no_gradient@{share:g}": lambda b=batch, r=scored: bench.pass_over(b.inputs, r, gradient=False),
        }
    return runs, gated


def measured(runs: Runs, rounds: int) -> tuple[list[dict[str, float]], dict[str, float]]:
    """CPU seconds of each run in each round, and its FLOPs, which are counted in the warm-up."""
    products = {}
    for name, run in runs.items():
        with flops.counter() as counted:
            run()
        products[name] = float(counted.get_total_flops())
    names, seconds = list(runs), list[dict[str, float]]()
    for turn in range(rounds):
        start = turn % len(names)
        found = {}
        for name in names[start:] + names[:start]:
            begun = time.process_time()
            runs[name]()
            found[name] = time.process_time() - begun
        seconds.append(found)
    return seconds, products


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method that looks, and the names of the passes that it needs beside GRPO's step."""

    name: str
    needed: tuple[tuple[str, int], ...]
    """Passes, and how many: what the bar allows a tenth more of."""
    choosing: str | None = None
    """The pass in which tokens are chosen: allowed once."""
    gated: float | None = None

    def share(self, cost: dict[str, float]) -> float:
        """Its step, as a share of what the bar allows."""
        allowed = BAR * sum(count * cost[name] for name, count in self.needed)
        return cost[self.name] / (cost["grpo"] + allowed + self._chosen(cost))

    def added(self, cost: dict[str, float]) -> float:
        """What it adds to GRPO's step besides choosing, in the passes that it needs."""
        needed = sum(count * cost[name] for name, count in self.needed)
        return (cost[self.name] - cost["grpo"] - self._chosen(cost)) / needed

    def _chosen(self, cost: dict[str, float]) -> float:
        return 0.0 if self.choosing is None else cost[self.choosing]


def methods(gated: dict[float, float]) -> list[Method]:
    """PAPO, and CPPO at each asked share, whose measured share is given."""
    found = [Method(name="papo", needed=(("no_gradient", 1),))]
    return found + [
        Method(
            name=f"cppo@{share:g}",
            needed=((f"gradient@{share:g}", 2),),
            choosing=f"no_gradient@{share:g}",
            gated=measured_share,
        )
        for share, measured_share in gated.items()
    ]


def row(method: Method, seconds: list[dict[str, float]], products: dict[str, float]) -> dict[str, Any]:
    """A method's line of the table."""
    found = spread([method.share(cost) for cost in seconds])
    cost = statistics.median(cost[method.name] for cost in seconds)
    return {
        "method": method.name,
        "gated_share": method.gated,
        "cpu_seconds": round(cost, 4),
        "over_grpo": round(cost / statistics.median(cost["grpo"] for cost in seconds), 4),
        "of_allowed": round(found.median, 4),
        "of_allowed_low": round(found.low, 4),
        "of_allowed_high": round(found.high, 4),
        "interval": f"order statistics; holds the true median with a chance of {found.chance:.3f}",
        "verdict": verdict(found, 1.0),
        "added": round(statistics.median(method.added(cost) for cost in seconds), 4),
        "of_allowed_flops": round(method.share(products), 4),
        "added_flops": round(method.added(products), 4),
    }


def show(rows: list[dict[str, Any]]) -> None:
    print(
        "| method | gated | CPU s | over GRPO | of what is allowed | bar | added / needed | both in FLOPs |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        share = "" if r["gated_share"] is None else f"{r['gated_share']:.3f}"
        interval = f"[{r['of_allowed_low']:.3f}, {r['of_allowed_high']:.3f}]"
        print(
            f"| {r['method']} | {share} | {r['cpu_seconds']:.4f} | {r['over_grpo']:.3f} | "
            f"{r['of_allowed']:.3f} {interval} | {r['verdict']} | "
            f"{r['added']:.3f} | {r['of_allowed_flops']:.3f}, {r['added_flops']:.3f} |"
        )


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    workload.settle(args.threads)
    runs, gated = runs_of(Bench(args))
    seconds, products = measured(runs, args.rounds)
    rows = [row(method, seconds, products) for method in methods(gated)]
    show(rows)
    settings = ("checkpoint", "visual_tokens", "response", "prompts", "group", "threads", "rounds")
    settings += ("prompts_again", "products_again")
    lines.end(
        {
            "rows": rows,
            "cpu_seconds": {n: round(statistics.median(c[n] for c in seconds), 4) for n in runs},
            "flops": products,
            **{name: getattr(args, name) for name in settings},
        },
        args.json,
    )


if __name__ == "__main__":
    main()
