"""What making pictures ahead saves: PAPO steps on JPEG files, in line and with worker threads, in turn.

    python benchmarks/picture_workers.py --checkpoint DIR --side 448 --response 64 --workers 0 1 --rounds 5

Each step loads its pictures from files, preprocesses them, draws completions, masks the pictures, scores and
updates. A round takes `--steps` steps with each number of workers, from another place each time. Printed for
each: wall and CPU seconds of a step, and the wall seconds that it waits for pictures, as medians over rounds
with an interval of order statistics; a JSON line follows. Wall seconds need cores for the workers: on a busy
machine they say little.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import given
import workload
from spread import spread

NAMES = ("seconds", "cpu_seconds", "waited")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="Qwen2.5-VL folder")
    parser.add_argument("--side", type=given.count, default=448, help="pixels of a picture's side")
    parser.add_argument("--response", type=given.count, default=64, help="tokens of each completion")
    parser.add_argument("--prompts", type=given.count, default=4)
    parser.add_argument("--group", type=given.count, default=8)
    parser.add_argument("--workers", type=given.natural, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=given.count, default=5)
    parser.add_argument("--steps", type=given.count, default=3, help="of a round")
    parser.add_argument("--threads", type=given.count, default=1)
    return parser.parse_args(words)


def files(folder: Path, args: argparse.Namespace) -> Sequence[Any]:
    """Problems whose pictures lie in files."""
    from PIL import Image

    from foveal.data.problems import open_data

    lines = []
    for index in range(4 * args.prompts):
        of = workload.problem(index, args.side // 8, 0)
        # Enlarged, so that it compresses as a photograph does.
        of.images[0].resize((args.side, args.side), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg")
        lines.append({"question": of.question, "answer": of.answer, "image": f"{index}.jpg"})
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return open_data(str(folder / "data.jsonl"))


class Bench:
    """A policy and its steps on problems of files."""

    def __init__(self, args: argparse.Namespace, problems: Sequence[Any]) -> None:

        from foveal.rollout.local import LocalEngine
        from foveal.train.setup import adamw
        from foveal.train.step import StepSettings
        from foveal.types import Sampling

        self.args, self.problems = args, problems
        self.policy = workload.load(args.checkpoint)
        self.engine = LocalEngine(self.policy)
        self.objective = workload.objective("papo")
        self.optimizer = adamw(self.policy, lr=0.0)
        self.settings = StepSettings(temperature=1.0, micro_batch_tokens=1 << 20)
        self.sampling = Sampling(
            group_size=args.group, max_new_tokens=args.response, min_new_tokens=args.response
        )

    def run(self, workers: int) -> dict[str, float]:
        """Steps with so many workers, the first of which is not measured."""
        from foveal.train.pictures import Pictures

        pictures = Pictures(
            self.problems,
            self.policy.processor,
            perturbations=workload.perturbations(),
            seed=0,
            workers=workers,
        )
        try:
            self._step(pictures, 0)
            start, cpu = time.perf_counter(), time.process_time()
            waited = sum(self._step(pictures, number) for number in range(1, self.args.steps + 1))
            took = time.perf_counter() - start, time.process_time() - cpu, waited
        finally:
            pictures.close()
        return {name: value / self.args.steps for name, value in zip(NAMES, took, strict=True)}

    def _step(self, pictures: Any, number: int) -> float:  # noqa: ANN401
        """One step; the seconds in which nothing but pictures is done."""
        from foveal.data.collate import collate
        from foveal.train.pictures import Moment
        from foveal.train.step import train_step

        count, moment = self.args.prompts, Moment(key=(0, number), progress=0.0)
        start = time.perf_counter()
        problems = [p for _, part in pictures.take(number * count, count) for p in part]
        pictures.expect_views(problems, self.objective.views, moment)
        pictures.expect((number + 1) * count, count)
        for of in problems:
            self.policy.processor.encode(of)
        waited = time.perf_counter() - start
        drawn = self.engine.generate(problems, sampling=self.sampling, key=(0, number))
        groups = [workload.grade(of, found) for of, found in zip(problems, drawn, strict=True)]
        start = time.perf_counter()
        inputs = collate(
            groups,
            processor=self.policy.processor,
            views=self.objective.views,
            perturbations=workload.perturbations(),
            key=moment.key,
            donors=self.problems,
            made=pictures.made,
        )
        pictures.forget_views()
        waited += time.perf_counter() - start
        train_step(
            self.policy, None, self.optimizer, inputs.to(self.policy.device), self.objective, self.settings
        )
        return waited


def main(words: list[str] | None = None) -> None:
    args = arguments(words)
    workload.settle(args.threads)
    found: dict[int, list[dict[str, float]]] = {workers: [] for workers in args.workers}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, files(Path(folder), args))
        for number in range(args.rounds):
            turn = number % len(args.workers)
            for workers in [*args.workers[turn:], *args.workers[:turn]]:
                found[workers].append(bench.run(workers))
    print("| workers | seconds a step | CPU seconds a step | seconds that wait for pictures |")
    print("|---|---|---|---|")
    for workers, rounds in found.items():
        cells = [str(spread([one[name] for one in rounds])) for name in NAMES]
        print(f"| {workers} | {' | '.join(cells)} |")
    print(json.dumps({"settings": vars(args), "rounds": {str(k): v for k, v in found.items()}}))


if __name__ == "__main__":
    main()
