"""What one training step costs, in CPU seconds: sampling, scoring, update. Prints one JSON line.

    python benchmarks/step_cost.py --checkpoint DIR --visual-tokens 16 --response 64 --objective grpo

Every completion has exactly `--response` tokens (the end token is banned until then), AdamW at a constant
1e-4, no reference policy. `compare.py` alternates this with another trainer's command on the same checkpoint.
"""

import argparse
import json
import math
import os
import resource
import statistics
import time
from pathlib import Path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="Qwen2.5-VL folder")
    parser.add_argument(
        "--visual-tokens", type=int, default=16, help="of each prompt's one picture; a square number"
    )
    parser.add_argument("--response", type=int, default=64, help="tokens of each completion")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--objective", choices=("grpo", "papo", "papo_d", "cppo"), default="grpo")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=1, help="steps left out of the medians")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="also append the line to this file")
    found = parser.parse_args()
    found.side = math.isqrt(found.visual_tokens)
    if found.side**2 != found.visual_tokens:
        parser.error("--visual-tokens must be a square number")
    return found


def main() -> None:
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    import torch

    from foveal.data.collate import collate
    from foveal.objectives import REGISTRY as OBJECTIVES
    from foveal.perturbations import REGISTRY as PERTURBATIONS
    from foveal.policy import load_policy
    from foveal.rollout.local import LocalEngine
    from foveal.spec import build_component
    from foveal.train.measure import keep_freed_memory
    from foveal.train.step import StepSettings, train_step
    from foveal.types import Completion, Group, Problem, Sampling

    torch.set_num_threads(args.threads)
    keep_freed_memory()
    papo_d = {"type": "papo", "base": {"type": "dapo"}}
    table = papo_d if args.objective == "papo_d" else {"type": args.objective}
    objective = build_component(table, OBJECTIVES, kind="objective")
    perturbations = {
        "removed": build_component({"type": "patch_mask"}, PERTURBATIONS, kind="perturbation"),
        "preserved": build_component({"type": "colour"}, PERTURBATIONS, kind="perturbation"),
    }
    policy = load_policy(args.checkpoint)
    engine = LocalEngine(policy)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    settings = StepSettings(temperature=1.0, micro_batch_tokens=1 << 20)
    sampling = Sampling(group_size=args.group, max_new_tokens=args.response, min_new_tokens=args.response + 1)

    def grade(problem: Problem, completions: tuple[Completion, ...]) -> Group:
        rewards = tuple(sum(c.isdigit() for c in x.text) / max(1, len(x.text)) for x in completions)
        correct = tuple(problem.answer in x.text for x in completions)
        return Group(problem=problem, completions=completions, rewards=rewards, correct=correct)

    steps: list[dict[str, float]] = []
    for step in range(args.steps):
        problems = [_problem(step * args.prompts + i, args.side * 28, args.seed) for i in range(args.prompts)]
        clock = [time.process_time()]
        wall = time.perf_counter()
        completions = engine.generate(problems, sampling=sampling, key=(args.seed, step))
        clock.append(time.process_time())
        groups = [grade(p, c) for p, c in zip(problems, completions, strict=True)]
        inputs = collate(
            groups,
            processor=policy.processor,
            views=objective.views,
            perturbations=perturbations,
            key=(args.seed, step),
        )
        clock.append(time.process_time())
        train_step(policy, None, optimizer, inputs, objective, settings)
        clock.append(time.process_time())
        assert all(len(c.token_ids) == args.response for g in groups for c in g.completions)
        steps.append(
            {
                "sample": clock[1] - clock[0],
                "collate": clock[2] - clock[1],
                "update": clock[3] - clock[2],
                "cpu": clock[3] - clock[0],
                "wall": time.perf_counter() - wall,
            }
        )
    kept = steps[args.warmup :]
    median = {name: statistics.median(s[name] for s in kept) for name in kept[0]}
    tokens = args.prompts * args.group * args.response
    line = {
        "trainer": "foveal",
        "objective": args.objective,
        "checkpoint": str(Path(args.checkpoint)),
        "visual_tokens": args.visual_tokens,
        "response": args.response,
        "prompts": args.prompts,
        "group": args.group,
        "threads": args.threads,
        "steps": args.steps,
        "cpu_seconds_per_step": round(median["cpu"], 4),
        "seconds_per_step": round(median["wall"], 4),
        "phases": {name: round(median[name], 4) for name in ("sample", "collate", "update")},
        "tokens_per_cpu_s": round(tokens / median["cpu"], 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    print(json.dumps(line))
    if args.json:
        with open(args.json, "a") as file:
            file.write(json.dumps(line) + "\n")


def _problem(index: int, side: int, seed: int) -> "object":
    """A question about a picture of noise: what is drawn does not change the cost."""
    import numpy as np
    from PIL import Image

    from foveal.types import Problem

    pixels = np.random.default_rng((seed, index)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    question = "<image>How many red circles are in the picture? Answer with one number."
    return Problem(id=str(index), question=question, images=(Image.fromarray(pixels),), answer="3")


if __name__ == "__main__":
    main()
