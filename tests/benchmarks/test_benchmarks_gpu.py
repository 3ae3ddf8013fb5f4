"""The benchmark for a GPU, run on a CPU in its tiny shape: every part works, and none takes the rest down."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import gpu
import gpu_head
import gpu_model as model
import gpu_parts as parts
import pytest
import torch
import workload
from torch import Tensor

from foveal.policy import vocabulary

CPU = torch.device("cpu")


def run(monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    command = "gpu.py --shape tiny --device cpu --dtype float32 --longest 100".split()
    monkeypatch.setattr("sys.argv", [*command, *more])
    code: int = gpu.main()
    return code


def small(made: model.Maker) -> parts.Work:
    return parts.Work(
        maker=made,
        dtype=torch.float32,
        prompts=2,
        group=3,
        visual_tokens=4,
        response=8,
        steps=1,
        micro_batch_tokens=1000,
        checkpointing=True,
        longest=4096,
    )


def test_the_tiny_shape_runs_whole_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "numbers.json"
    assert run(monkeypatch, "--response", "8", "--group", "4", "--json", str(file)) == 0
    report = json.loads(file.read_text())
    found = report["parts"]
    assert not [name for name, part in found.items() if "error" in part or "out_of_memory" in part]
    assert found["correctness"]["float32_ok"] and found["correctness"]["bfloat16_ok"]
    for name in ("grpo", "papo", "cppo"):
        step = found[f"step {name}"]
        laps = ("sample", "collate", "forward", "backward", "optimizer")
        assert all(step[lap] > 0 for lap in laps)
        assert step["skipped_updates"] == 0 and step["peak_gib"] is None
    assert found["step cppo"]["gated_share"] == 0.5 and found["step papo"]["score"] > 0
    assert found["step cppo"]["flops"] > found["step papo"]["flops"] > found["step grpo"]["flops"]
    again = found["step grpo, nothing held"]
    assert found["step grpo"]["held_tokens"] > 0 == again["held_tokens"] == found["step cppo"]["held_tokens"]
    assert again["flops"] > found["step grpo"]["flops"]
    # With gradient checkpointing, the default here, no products are kept.
    assert again["product_gap"] is None is found["step grpo"]["product_gap"]
    sums = [found[f"one group {way}"]["logprob_sum"] for way in gpu.WAYS]
    assert sums == pytest.approx([sums[0]] * len(sums), abs=1e-3)
    assert found["longest"]["does_not_fit"] is None and found["longest"]["fits_tokens"] == 100
    plain = found["head plain"]["measured"]
    assert [one["rows"] for one in plain] == [8, 24] and all(one["seconds"] > 0 for one in plain)
    assert all(one["logprob_rms"] == one["gradient"] == 0 for one in plain)
    assert found["head compiled"]["note"] == found["head liger"]["note"] == "the device is no GPU"
    assert "peak memory" in report["not_measured"]
    printed = capsys.readouterr().out
    assert "| cppo |" in printed and "Not measured on a cpu: peak memory" in printed
    # On a busy machine the longer of two short runs may take no longer; which numbers follow is tested below.
    eager = found["sampler eager"]
    assert eager["tokens_per_s"] > 0 if "note" not in eager else "tokens_per_s" not in eager
    assert "sampler graph" not in found


@pytest.mark.parametrize(
    ("failure", "key", "code", "shown"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out_of_memory", 0, "| out of memory |"),
        (RuntimeError("no such kernel"), "error", 1, "| failed |"),
    ],
)
def test_a_part_that_fails_is_reported_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    failure: Exception,
    key: str,
    code: int,
    shown: str,
) -> None:
    def failing(*given: object, **more: object) -> dict[str, Any]:
        raise failure

    monkeypatch.setattr(gpu, "maker", lambda *given: nullcontext())
    for part in ("machine", "step", "longest"):
        monkeypatch.setattr(gpu, part, failing)
    monkeypatch.setattr(gpu, "ways", lambda work, way: {"seconds": 2.0})
    monkeypatch.setattr(gpu, "heads", lambda work, way: {"note": f"no {way}"})
    monkeypatch.setattr(gpu, "correctness", lambda work: {"float32_ok": True})
    monkeypatch.setattr(gpu, "sampler", lambda work, rate, way: {"given": rate})
    file = tmp_path / "numbers.json"
    assert run(monkeypatch, "--json", str(file)) == code
    found = json.loads(file.read_text())["parts"]
    assert str(failure) in found["step cppo"][key] and str(failure) in found["longest"][key]
    assert found["one group plain"]["seconds"] == 2.0 and found["sampler eager"]["given"] is None
    printed = capsys.readouterr().out
    assert shown in printed and "| verl | no verl |" in printed


def test_both_ways_to_decode_are_measured_on_cuda(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "maker", lambda *given: nullcontext())
    for part in ("machine", "step", "longest", "ways", "heads", "correctness"):
        monkeypatch.setattr(gpu, part, lambda *given, **more: {})
    monkeypatch.setattr(gpu, "decodes", lambda device: gpu.DECODES)
    rates = {"eager": 200.0, "graph": 700.0}
    monkeypatch.setattr(gpu, "sampler", lambda work, rate, way: {"tokens_per_s": rates[way]})
    file = tmp_path / "numbers.json"
    assert run(monkeypatch, "--json", str(file)) == 0
    assert json.loads(file.read_text())["summary"]["decode_graph_over_eager"] == 3.5
    assert "| sampler: tokens a second, graph over eager | 3.5 |" in capsys.readouterr().out
    assert "CUDA graphs" in json.loads(file.read_text())["not_measured"]


def test_a_check_that_does_not_hold_ends_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "maker", lambda *given: nullcontext())
    for part in ("machine", "step", "longest", "ways", "heads", "sampler"):
        monkeypatch.setattr(gpu, part, lambda *given, **more: {})
    monkeypatch.setattr(gpu, "correctness", lambda work: {"float32_ok": True, "bfloat16_ok": False})
    assert run(monkeypatch) == 1


@pytest.mark.parametrize(("room", "low"), [(3000, 2600), (1024, 1024), (700, 600), (100_000, 3900)])
def test_the_longest_context_is_found_by_doubling_and_halving(
    monkeypatch: pytest.MonkeyPatch, room: int, low: int
) -> None:
    tried = []

    def group(policy: object, of: object, lengths: tuple[int]) -> tuple[int]:
        tried.append(lengths[0])
        return lengths

    def collated(policy: Any, groups: list[tuple[int]]) -> Any:
        if groups[0][0] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return parts_collated(policy, [model.random_group(policy, workload.problem(0, 56, 0), (2,))])

    parts_collated = parts.collated
    monkeypatch.setattr(parts, "random_group", group)
    monkeypatch.setattr(parts, "collated", collated)
    with model.maker("tiny", CPU) as made:
        work = small(made)
        found = parts.longest(work, gpu.is_out_of_memory)
    prompt = found["fits_tokens"] - max(n for n in tried if n <= room)
    assert 4 < prompt < 60
    assert low <= found["fits_tokens"] - prompt <= room
    if room < 4096:
        assert room < found["does_not_fit"] - prompt <= 1.3 * room + 64


def test_the_shapes_have_the_published_numbers_of_parameters() -> None:
    """Those of the safetensors of Qwen2.5-VL-3B-Instruct and -7B-Instruct."""
    for shape, wanted in (("3b", 3_754_622_976), ("7b", 8_292_166_656)):
        with model.maker(shape, torch.device("meta")) as made:
            found = made.model(torch.bfloat16, made.config())
            assert sum(weight.numel() for weight in found.parameters()) == wanted


def test_the_sampler_is_held_against_what_a_token_step_must_read(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([1.2, 1.8, 1.0, 1.0])  # 2 tokens, then 8: a tenth of a second each; then no time at all
    monkeypatch.setattr(parts.Work, "seconds", lambda *given, **more: next(taken))
    with model.maker("tiny", CPU) as made:
        work = small(made)
        found = parts.sampler(work, 2.0, "eager")
        policy = made.policy(torch.float32)
        prompt = len(policy.processor.encode(work.problem(0)).prompt.token_ids)
        assert "longer --response" in parts.sampler(work, 2.0, "eager")["note"]
    assert found["tokens_per_s"] == pytest.approx(6 / 0.1)
    assert found["prefill_s"] == pytest.approx(1.0)
    # Two layers: q, k, v with biases and o of 64 and 32; the MLP of 96; two norms. The head of 700 words.
    layer = 64 * 65 + 2 * 32 * 65 + 64 * 64 + 3 * 64 * 96 + 2 * 64
    keys = 2 * 2 * 32 * (2 * prompt + 6 * 5)
    seconds = 4 * (2 * layer + 64 * 700 + keys) / 2e9
    assert found["bound_tokens_per_s"] == pytest.approx(6 / seconds)
    assert found["share_of_bound"] == pytest.approx(seconds / 0.1)


class Fused:
    """Another's head: the negative log-probability and the entropy, in the type of the states."""

    @staticmethod
    def apply(hidden: Tensor, weight: Tensor, targets: Tensor, *more: object) -> tuple[Tensor, Tensor]:
        assert more == (1.0, -100, 1, True)
        logs = torch.log_softmax((hidden @ weight.t()).float(), -1)
        return -logs.gather(-1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1).to(hidden.dtype)


def test_heads_of_others_are_measured_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    ops: Any = ModuleType("liger_kernel.ops")
    ops.LigerFusedLinearScaledCrossEntropyFunction = Fused
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", ops)
    monkeypatch.setitem(sys.modules, "verl", None)
    monkeypatch.setattr(parts.Work, "cuda", True)
    monkeypatch.setattr(parts.Work, "sync", lambda work: None)
    monkeypatch.setattr(gpu_head, "_peak", lambda run: 0.5)
    monkeypatch.setattr(vocabulary, "BACKEND", "eager")
    vocabulary._compiled.cache_clear()
    with model.maker("tiny", CPU) as made:
        found = {name: gpu_head.heads(small(made), name) for name in gpu_head.HEADS}
        monkeypatch.setattr(Fused, "apply", lambda *given: 1 / 0)
        failed = gpu_head.heads(small(made), "liger")
    vocabulary._compiled.cache_clear()
    for name in ("compiled", "liger"):
        last = found[name]["measured"][-1]
        assert last["rows"] == 24 and last["seconds"] > 0 and last["peak_gib"] == 0.5
        assert max(last["logprob_rms"], last["entropy_rms"], last["gradient"]) < 1e-6
    assert found["verl"]["note"].startswith("not installed: ")
    assert failed == {"note": "failed: ZeroDivisionError: division by zero"}


def test_without_checkpointing_a_step_takes_products_from_sampling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "numbers.json"
    words = ("--response", "8", "--group", "4", "--no-checkpointing", "--json", str(file))
    assert run(monkeypatch, *words) == 0
    found = json.loads(file.read_text())["parts"]
    assert 0 < found["step grpo"]["product_gap"] < 1e-4
    assert found["step grpo, nothing held"]["product_gap"] is None
    assert found["step grpo"]["flops"] < 0.8 * found["step grpo, nothing held"]["flops"]
