"""What `gpu.py` measures, a function a part; each returns plain numbers by name."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import workload
from gpu_forwards import cached, plain
from gpu_model import SHAPES, Maker, random_group
from torch import Tensor

from foveal.data.collate import collate
from foveal.policy.model import Policy
from foveal.policy.processing import Encoded
from foveal.rollout.local import LocalEngine
from foveal.train.setup import adamw
from foveal.types import CLEAN, Inputs, Problem, Sampling

Numbers = dict[str, Any]

FP32_BOUND = 1e-4
"""Of log-probs (nats) and of gradients (relative L2) against the plain forward in float32."""

BF16_FACTOR = 1.5
"""In bfloat16 the distance from float32 (of log-probs its root mean square) may be this many times the plain
forward's own."""

CHECKED_LAYERS = {"text_layers": 4, "vision_layers": 8}
"""Of the model that correctness is checked on: gradients of all layers in float32, twice, would not fit."""

CHECKED_LENGTHS = ((9, 1, 33, 64), (17, 5, 64, 2))
"""Of its two groups' completions."""

CHECKED = (
    ("plain", torch.float32),
    ("shared", torch.float32),
    ("plain", torch.bfloat16),
    ("shared", torch.bfloat16),
)
"""What is compared; the first is what the others are compared with."""

Outcome = tuple[Tensor, dict[str, Tensor]]
"""Log-probs and gradients."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Sizes of the measured work."""

    maker: Maker
    dtype: torch.dtype
    prompts: int
    group: int
    visual_tokens: int
    response: int
    steps: int
    micro_batch_tokens: int
    checkpointing: bool
    longest: int

    @property
    def cuda(self) -> bool:
        return self.maker.device.type == "cuda"

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def problem(self, index: int) -> Problem:
        """A question about one picture."""
        found: Problem = workload.problem(index, workload.side_of(self.visual_tokens), 0)
        return found

    def policy(self) -> Policy:
        """The trained policy with its gradient checkpointing."""
        policy = self.maker.policy(self.dtype)
        if self.checkpointing:
            checkpoint_activations(policy)
        return policy

    @contextmanager
    def peak(self, found: Numbers) -> Iterator[None]:
        """Put the device's peak memory into `found`; none on a CPU."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        yield
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.cuda else None

    def seconds(self, run: Callable[[], object], *, repeats: int = 3) -> float:
        """Median wall time of a call that was run once before."""
        run()
        found = []
        for _ in range(repeats):
            self.sync()
            start = time.perf_counter()
            run()
            self.sync()
            found.append(time.perf_counter() - start)
        return statistics.median(found)


def checkpoint_activations(policy: Policy) -> None:
    model: Any = policy.model
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)()


def collated(policy: Policy, groups: list[Any], views: tuple[str, ...] = (CLEAN,), step: int = 0) -> Inputs:
    inputs = collate(
        groups,
        processor=policy.processor,
        views=views,
        perturbations=workload.perturbations(),
        key=(0, step),
    )
    return inputs.to(policy.device)


def machine(work: Work) -> Numbers:
    """What the device gives: a large matrix product in the working type, and reading plus writing memory."""
    size, words = (8192, 1 << 30) if work.cuda else (256, 1 << 22)
    device = work.maker.device
    a, b = (torch.randn(size, size, device=device, dtype=work.dtype) for _ in range(2))
    product = work.seconds(lambda: a @ b, repeats=5)
    source = torch.empty(words, device=device, dtype=torch.int8)
    target = torch.empty_like(source)
    copy = work.seconds(lambda: target.copy_(source), repeats=5)
    return {"matmul_tflops": 2 * size**3 / product / 1e12, "memory_gb_s": 2 * words / copy / 1e9}


def correctness(work: Work) -> Numbers:
    """Log-probs and gradients of the shared forward against transformers' own, a row at a time, on the first
    layers: float32 against float32, and both in bfloat16 against float32."""
    maker = work.maker
    weights = maker.model(torch.float32, maker.config(**CHECKED_LAYERS)).bfloat16().float().state_dict()
    reference: Outcome | None = None
    found: Numbers = {}
    for kind, dtype in CHECKED:
        name = f"{kind}_{str(dtype).removeprefix('torch.')}"
        policy = maker.policy(dtype, config=maker.config(**CHECKED_LAYERS), adapted=kind == "shared")
        policy.model.load_state_dict(weights)
        groups = [
            random_group(
                policy, workload.problem(n, workload.side_of(min(work.visual_tokens, 256)), 0), lengths
            )
            for n, lengths in enumerate(CHECKED_LENGTHS)
        ]
        inputs = collated(policy, groups)
        if kind == "shared":
            found[f"{name}_path"] = policy.attention_path
            outcome = _outcome(policy, policy(inputs, CLEAN).logprobs)
        else:
            outcome = _outcome(policy, _plain_rows(policy, inputs))
        if reference is None:
            reference = outcome
        else:
            gaps = _gaps(outcome, reference)
            found |= {f"{name}_{measure}": value for measure, value in gaps.items()}
        del policy, outcome
    found["float32_ok"] = all(
        found[f"shared_float32_{measure}"] <= FP32_BOUND for measure in ("logprob_max", "gradient")
    )
    found["bfloat16_ok"] = all(
        found[f"shared_bfloat16_{measure}"] <= BF16_FACTOR * found[f"plain_bfloat16_{measure}"]
        for measure in ("logprob_rms", "gradient")
    )
    return found


def _outcome(policy: Policy, logprobs: Tensor) -> Outcome:
    """Log-probs, and gradients of a weighted sum of them."""
    policy.zero_grad()
    weight = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(1)).to(logprobs.device)
    (logprobs * weight).sum().backward()
    grads = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
    return logprobs.detach().float(), grads


def _gaps(found: Outcome, wanted: Outcome) -> dict[str, float]:
    """Distances of log-probs in nats, largest and root mean square, and of gradients, relative L2."""
    off = sum(float((found[1][n].float() - wanted[1][n]).double().square().sum()) for n in wanted[1])
    whole = sum(float(grad.double().square().sum()) for grad in wanted[1].values())
    gap = (found[0] - wanted[0])[wanted[0] != 0].double()
    return {
        "logprob_max": float(gap.abs().max()),
        "logprob_rms": float(gap.square().mean().sqrt()),
        "gradient": (off / whole) ** 0.5,
    }


def _plain_rows(policy: Policy, inputs: Inputs) -> Tensor:
    """Log-probs [B T], each row alone through transformers."""
    rows = torch.zeros_like(inputs.sampled_logprobs)
    parts = [plain(policy, inputs, [row]) for row in range(len(inputs.lengths))]
    width = rows.shape[1]
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


def ways(work: Work, way: str) -> Numbers:
    """Forward and backward of one group, the log-probs' sum as loss, without gradient checkpointing, with
    which the cached way is wrong. The plain way, too, runs the library's vision attention; the held way's
    forward of the prompt, which a step makes in sampling, is part of it."""
    policy = work.maker.policy(work.dtype)
    group = random_group(policy, work.problem(0), (work.response,) * work.group)
    inputs = collated(policy, [group])
    rows = list(range(work.group))
    if way in ("tiled", "dense"):
        policy.attention_path = way
    other: Mapping[str, Callable[[], Tensor]] = {
        "cached": lambda: cached(policy, inputs, rows),
        "plain": lambda: plain(policy, inputs, rows),
    }
    encoded = Encoded(prompt=inputs.prompts[0], pixels=inputs.vision[CLEAN].pixels[0])
    forward = other.get(way, lambda: policy(inputs, CLEAN).logprobs)
    found: Numbers = {"path": None if way in other else policy.attention_path}

    def run() -> Tensor:
        policy.zero_grad()
        if way == "held":
            policy.prefill([encoded], hold=True)
        logprobs = forward()
        logprobs.sum().backward()
        policy.held.backward()
        return logprobs

    with work.peak(found):
        found["logprob_sum"] = float(run().detach().double().sum())
        found["seconds"] = work.seconds(run)
    return found


def sampler(work: Work, memory_gb_s: float | None, decode: str) -> Numbers:
    """Tokens a second of a way to decode, from two lengths (the prefill falls out), against reading every
    weight once, each prompt's keys once a group and each completion's own keys, a token step."""
    policy = work.maker.policy(work.dtype)
    engine = LocalEngine(policy, decode=decode)
    problems = [work.problem(n) for n in range(work.prompts)]
    short, long = max(2, work.response // 4), work.response
    taken = {}
    found: Numbers = {}
    with work.peak(found):
        for length in (short, long):
            sampling = Sampling(group_size=work.group, max_new_tokens=length, min_new_tokens=length + 1)

            def generate(sampling: Sampling = sampling) -> object:
                return engine.generate(problems, sampling=sampling, key=(0,))

            taken[length] = work.seconds(generate, repeats=work.steps)
    token_step = (taken[long] - taken[short]) / (long - short)
    if token_step <= 0:
        return found | {"note": "both lengths took the same time; give a longer --response"}
    rows = work.prompts * work.group
    found["tokens_per_s"] = rows / token_step
    found["prefill_s"] = max(0.0, taken[short] - short * token_step)
    if memory_gb_s:
        prompts = sum(len(policy.processor.encode(p).prompt.token_ids) for p in problems)
        read = _decode_bytes(policy, prompts + rows * (short + long) / 2)
        found["bound_tokens_per_s"] = rows * memory_gb_s * 1e9 / read
        found["share_of_bound"] = found["tokens_per_s"] / found["bound_tokens_per_s"]
    return found


def _decode_bytes(policy: Policy, tokens: float) -> float:
    """Bytes that one token step must read: the text layers, the head, and keys and values of `tokens`."""
    text = policy.model.config.text_config
    width = text.hidden_size // text.num_attention_heads
    model: Any = policy.model
    head, _ = policy.family.head(model)
    weights = sum(p.numel() for p in model.model.language_model.layers.parameters()) + head.numel()
    keys = 2 * text.num_hidden_layers * text.num_key_value_heads * width * tokens
    return float((weights + keys) * head.dtype.itemsize)


def longest(work: Work, is_out_of_memory: Callable[[Exception], bool]) -> Numbers:
    """The longest completion behind one picture whose update fits, with gradient checkpointing and AdamW's
    state there: doubled until it does not fit, then halved in between, to an eighth."""
    policy = work.maker.policy(work.dtype)
    checkpoint_activations(policy)
    optimizer = adamw(policy, lr=0.0)
    of = work.problem(0)
    prompt = len(policy.processor.encode(of).prompt.token_ids)
    limit = min(work.longest, SHAPES[work.maker.shape]["text"]["max_position_embeddings"]) - prompt

    def fits(tokens: int) -> bool:
        try:
            inputs = collated(policy, [random_group(policy, of, (tokens,))])
            optimizer.zero_grad(set_to_none=False)
            policy(inputs, CLEAN).logprobs.sum().backward()
            optimizer.step()
            work.sync()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            full = True
        else:
            full = False
        if full and work.cuda:
            torch.cuda.empty_cache()
        return not full

    good, bad = 0, None
    at = min(limit, 1024)
    while bad is None and good < limit:
        if fits(at):
            good, at = at, min(limit, 2 * at)
        else:
            bad = at
    while bad is not None and bad - good > max(64, bad // 8):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return {
        "fits_tokens": good + prompt if good else 0,
        "does_not_fit": bad + prompt if bad else None,
        "limit": limit + prompt,
        "path": policy.attention_path,
    }
