"""Token heat by hand, on a policy whose two views are written down."""

import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from foveal.diagnosis import looking as module
from foveal.diagnosis.looking import TokenHeat, kl_prcp, looking, pieces, summarize, token_heat
from foveal.spec import FovealError
from foveal.types import CLEAN, Completion, Group, Inputs, Perturbation, Problem, TokenStats, ViewName

WORDS = ["I", "see", "red", "."]


class Processor:
    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(WORDS[i] for i in token_ids)


class TwoViews:
    """Sure of "red" (token 2) on clean; any other view gives it log-probability -3."""

    processor = Processor()

    def forward(
        self, inputs: Inputs, view: ViewName, *, rows: Tensor | None = None, temperature: float = 1.0
    ) -> TokenStats:
        red = inputs.completion_ids == 2
        logprobs = torch.full(red.shape, -0.5).masked_fill(red, -0.1 if view == CLEAN else -3.0)
        entropy = torch.full(red.shape, 0.2).masked_fill(red, 0.1 if view == CLEAN else 1.4)
        return TokenStats(
            logprobs=logprobs.requires_grad_(), entropy=entropy, log_probs_at=lambda mask: logprobs
        )


def inputs(groups: int = 1) -> Inputs:
    ids = torch.tensor([[0, 1, 2, 3], [2, 3, 3, 3]]).repeat(groups, 1)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]]).repeat(groups, 1)
    none = torch.zeros(2 * groups, dtype=torch.bool)
    return Inputs(
        prompts=(),
        prompt_index=torch.arange(groups).repeat_interleave(2),
        completion_ids=ids,
        completion_mask=mask,
        sampled_logprobs=torch.zeros(2 * groups, 4),
        rewards=torch.zeros(2 * groups),
        correct=none,
        lengths=mask.sum(-1),
        truncated=none,
        vision={},
    )


def test_kl_prcp_is_k3_by_hand_and_zero_for_equal_views() -> None:
    clean, removed = torch.tensor([[-0.1, -2.0, -0.1]]), torch.tensor([[-3.0, -2.0, -20.1]])
    found = kl_prcp(clean, removed)[0].tolist()
    assert found[0] == pytest.approx(math.exp(-2.9) - 1 + 2.9, abs=1e-6)
    assert found[1] == 0.0
    assert found[2] == pytest.approx(19.0, abs=1e-5), "a measurement is not bounded at 10 nats"


def test_heat_sits_on_the_token_that_needs_the_picture() -> None:
    first, second = token_heat(TwoViews(), inputs(), completions=[("a", 0), ("a", 1)])
    hot = math.exp(-2.9) - 1 + 2.9
    assert first.kl_prcp == pytest.approx((0, 0, hot, 0), abs=1e-6)
    assert first.entropy_shift == pytest.approx((0, 0, 1.3, 0), abs=1e-6)
    assert second.kl_prcp == pytest.approx((hot, 0), abs=1e-6) and second.token_ids == (2, 3)
    assert "".join(first.texts) == "I see red ." and first.texts[2] == " red"
    assert (second.problem_id, second.index) == ("a", 1)
    assert first.tokens()[2]["text"] == " red"


def test_looking_collates_clean_and_the_view_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, tuple[str, ...], object]] = []

    def collate(groups: Sequence[Group], **given: object) -> Inputs:
        seen.append((len(groups), given["views"], given["key"]))  # type: ignore[arg-type]
        return inputs(len(groups))

    monkeypatch.setattr(module, "collate", collate)
    problem = Problem(id="a", question="", images=(), answer="")
    completion = Completion(token_ids=(0,), sampled_logprobs=(0.0,), text="", finish="stop")
    group = Group(problem=problem, completions=(completion,) * 2, rewards=(0.0,) * 2, correct=(False,) * 2)
    settings = SimpleNamespace(perturbations={"hidden": Perturbation(type="any")}, key=(3, "x"))
    found = looking(TwoViews(), [group] * 3, view="hidden", batch_size=2, **vars(settings))
    assert seen == [(2, (CLEAN, "hidden"), (3, "x")), (1, (CLEAN, "hidden"), (3, "x"))]
    assert [(heat.problem_id, heat.index) for heat in found] == [("a", 0), ("a", 1)] * 3
    with pytest.raises(FovealError, match=r"no perturbation for the view 'removed' \(there are: hidden\)"):
        looking(TwoViews(), [group], **vars(settings))


def heat(*values: float) -> TokenHeat:
    n = len(values)
    return TokenHeat(
        problem_id="a", index=0, token_ids=(0,) * n, texts=("",) * n, kl_prcp=values, entropy_shift=(0.5,) * n
    )


def test_summary_has_median_and_tail_beside_the_mean() -> None:
    found = summarize([heat(0.0, 0.0, 0.1), heat(0.2, 12.0)])
    assert found.tokens == 5
    assert found.kl_prcp_median == pytest.approx(0.1) and found.kl_prcp_mean == pytest.approx(2.46)
    assert found.kl_prcp_tail_fraction == pytest.approx(0.2) and found.entropy_shift_mean == 0.5
    with pytest.raises(FovealError, match="no completion tokens"):
        summarize([])


def test_pieces_keep_spaces() -> None:
    assert pieces([0, 1, 2], decode=Processor().decode) == ("I", " see", " red")


def test_pieces_of_a_split_character_appear_when_it_is_whole() -> None:
    raw = [b"a", "é".encode()[:1], "é".encode()[1:], b"b", "ü".encode()[:1]]

    def decode(token_ids: Sequence[int]) -> str:
        return b"".join(raw[i] for i in token_ids).decode(errors="replace")

    assert pieces(range(5), decode=decode) == ("a", "", "é", "b", "�")
