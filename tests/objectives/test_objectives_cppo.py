import math
from dataclasses import replace

import pytest
import torch

from foveal.objectives.cppo import CPPO, contrastive_loss, perception_tokens
from foveal.objectives.dapo import DAPO
from foveal.objectives.grpo import GRPO
from foveal.objectives.terms import aggregate, count, exact_kl
from foveal.spec import FovealError
from objective_batches import Case, gradients, make_case, measure, part, prepared, total_loss

NAME = "contrastive_perception"
DIVERGENCES = ["k3", "k1", "exact"]
SELECT_IN = ["scoring", "update"]


def chosen(objective: CPPO, case: Case) -> torch.Tensor:
    return prepared(objective, case).batch.selections[NAME]


def looped_tokens(entropy, removed, mask, fraction, score, rounding) -> list[set[int]]:
    found = []
    for clean_row, removed_row, mask_row in zip(
        entropy.tolist(), removed.tolist(), mask.tolist(), strict=True
    ):
        ranks = {
            t: (r - c) if score == "absolute" else (r - c) / (r + 1e-6)
            for t, (c, r, m) in enumerate(zip(clean_row, removed_row, mask_row, strict=True))
            if m and r > c
        }
        wanted = max(1, getattr(math, rounding)(len(ranks) * fraction))
        found.append(set(sorted(ranks, key=lambda t, ranks=ranks: -ranks[t])[:wanted]))
    return found


@pytest.mark.parametrize("score", ["absolute", "relative"])
@pytest.mark.parametrize("rounding", ["floor", "ceil"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_perception_tokens_equal_a_loop(score, rounding, fraction):
    for seed in range(5):
        case = make_case((6, 2, 5, 0), seed=seed)
        clean, removed = (case.batch.scores.views[view].entropy for view in ("clean", "removed"))
        mask = case.batch.inputs.completion_mask
        found = perception_tokens(clean, removed, mask, fraction=fraction, score=score, rounding=rounding)
        sets = [set(row.nonzero().flatten().tolist()) for row in found]
        assert sets == looped_tokens(clean, removed, mask, fraction, score, rounding)


def test_absolute_and_relative_scores_disagree_where_the_entropy_is_tiny():
    clean, removed = torch.tensor([[1e-4, 1.0]]), torch.tensor([[1e-2, 2.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    found = {
        score: perception_tokens(clean, removed, mask, fraction=0.5, score=score).tolist()
        for score in ("absolute", "relative")
    }
    assert found == {"absolute": [[False, True]], "relative": [[True, False]]}


def test_perception_tokens_ignore_padding_and_falling_entropy():
    clean = torch.tensor([[1.0, 1.0, 1.0, float("nan")]])
    removed = torch.tensor([[0.5, 1.1, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False, False]])
    found = perception_tokens(clean, removed, mask, fraction=1.0, score="absolute")
    assert found.tolist() == [[False, True, False, False]]


def test_contrastive_loss_by_hand_and_by_gradcheck():
    positive = torch.tensor([0.1, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    negative = torch.tensor([0.1, 0.5, 0.0], dtype=torch.float64, requires_grad=True)
    found = contrastive_loss(positive, negative, tau=0.1)
    assert found.tolist() == pytest.approx(
        [math.log(2), math.log1p(math.exp(-2)), 20 + math.log1p(math.exp(-20))]
    )
    assert torch.autograd.gradcheck(lambda a, b: contrastive_loss(a, b, tau=0.5), (positive, negative))


@pytest.mark.parametrize("base", [GRPO(), GRPO(kl_coef=0.05, aggregation="token_mean"), DAPO()])
@pytest.mark.parametrize("select_in", SELECT_IN)
def test_with_coefficient_zero_it_is_its_base_bit_for_bit(base, select_in):
    cppo = CPPO(base=base, cpl_coef=0.0, select_in=select_in)
    case = make_case(dtype=torch.float32, spread=0.8)
    assert cppo.score_views == base.score_views and cppo.update_views == base.update_views
    assert torch.equal(total_loss(cppo, prepared(cppo, case)), total_loss(base, prepared(base, case)))
    for view, expected in gradients(base, case).items():
        assert torch.equal(gradients(cppo, case)[view], expected)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_loss_equals_a_loop_over_the_chosen_tokens(divergence, aggregation):
    base = GRPO(aggregation=aggregation)
    objective = CPPO(base=base, cpl_coef=0.5, divergence=divergence, gate=False)
    case = prepared(objective, make_case((5, 2, 0, 1)))
    rows = []
    for i, row in enumerate(case.batch.selections[NAME].tolist()):
        values = []
        for t in (t for t, inside in enumerate(row) if inside):
            token = int(case.batch.inputs.completion_ids[i, t])
            p, pos, neg = (
                case.logits[view][i, t].log_softmax(-1).tolist() for view in ("clean", "preserved", "removed")
            )
            kls = []
            for q in (pos, neg):
                k = q[token] - p[token]
                exact = sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
                kls.append({"k1": -k, "k3": min(math.exp(k) - k - 1, 10.0), "exact": exact}[divergence])
            values.append(math.log1p(math.exp((kls[0] - kls[1]) / 0.1)))
        if values:
            rows.append(values)
    if aggregation == "token_mean":
        added = sum(map(sum, rows)) / sum(map(len, rows))
    else:
        added = sum(sum(row) / len(row) for row in rows) / len(rows)
    expected = total_loss(base, case).item() + 0.5 * added
    assert total_loss(objective, case).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("select_in", SELECT_IN)
def test_gradient_reaches_the_chosen_tokens_of_all_three_branches_and_no_other(divergence, select_in):
    objective = CPPO(cpl_coef=1.0, divergence=divergence, select_in=select_in)
    case = prepared(objective, make_case(spread=0.0))
    found = gradients(objective, case)
    tokens = chosen(CPPO(), case)
    assert tokens.any() and not tokens.all()
    for view in ("preserved", "removed"):
        assert found[view][~tokens].eq(0).all() and found[view][tokens].abs().sum() > 0
    added = found["clean"] - gradients(GRPO(), case)["clean"]
    assert added[~tokens].eq(0).all()
    reaches = added[tokens].abs().sum() > 1e-12
    assert reaches == (divergence != "k1"), "with k1 the clean log-probability cancels"


def test_with_equal_perturbed_views_the_loss_is_log_two_and_pushes_them_apart():
    objective = CPPO(cpl_coef=1.0, gate=False)
    case = prepared(objective, make_case())
    same = Case(
        case.batch, {**case.logits, "removed": case.logits["preserved"].detach().clone().requires_grad_()}
    )
    term = objective.terms(same.batch, same.now)[-1]
    assert term.per_token[term.mask].tolist() == pytest.approx([math.log(2)] * int(term.mask.sum()))
    found = gradients(objective, same)
    assert torch.allclose(found["preserved"], -found["removed"]) and found["removed"].abs().sum() > 0


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_one_descent_step_lowers_the_contrastive_loss(divergence):
    objective = CPPO(cpl_coef=1.0, divergence=divergence, gate=False)
    case = prepared(objective, make_case(rewards=(1.0,) * 4))

    def mean_loss(of: Case) -> torch.Tensor:
        term = objective.terms(of.batch, of.now)[-1]
        return aggregate(term.per_token, term.mask, aggregation="token_mean", count=count(term.mask))

    moved = {
        view: (case.logits[view] - 0.01 * grad).detach() for view, grad in gradients(objective, case).items()
    }
    assert mean_loss(Case(case.batch, moved)) < mean_loss(case)


def test_the_gate_leaves_only_completions_of_positive_advantage():
    case = make_case((6, 6, 6, 6))
    gated, free = chosen(CPPO(), case), chosen(CPPO(gate=False), case)
    positive = GRPO().advantages(case.batch.inputs) > 0
    assert torch.equal(gated, free & positive)
    assert gated.any() and free[1].any() and not gated[1].any()


def test_rows_need_the_perturbed_views_only_where_a_token_is_chosen():
    objective = CPPO()
    batch = prepared(objective, make_case((6, 6, 6, 6))).batch
    for view in ("removed", "preserved"):
        assert objective.rows(view, batch).tolist() == batch.selections[NAME].any(-1).tolist()
    assert objective.rows("removed", batch).tolist() == [True, False, True, False]
    assert objective.rows("clean", batch).all()
    assert not objective.rows("noised", batch).any()


def test_rows_that_may_get_a_token_are_run_when_tokens_are_chosen_in_the_update():
    batch = prepared(CPPO(), make_case((6, 0, 6, 6))).batch
    gated, free = CPPO(select_in="update"), CPPO(select_in="update", gate=False)
    for view in ("removed", "preserved"):
        assert gated.rows(view, batch).tolist() == [True, False, True, False]
        assert free.rows(view, batch).tolist() == [True, False, True, True]


@pytest.mark.parametrize("select_in", SELECT_IN)
def test_rows_that_were_not_run_do_not_matter(select_in):
    objective = CPPO(cpl_coef=1.0, select_in=select_in)
    case = prepared(objective, make_case((6, 6, 6, 6)))
    whole = total_loss(objective, case)
    now = dict(case.now)
    for view in ("removed", "preserved"):
        run = objective.rows(view, case.batch).unsqueeze(-1)
        now[view] = replace(now[view], logprobs=now[view].logprobs * run, entropy=now[view].entropy * run)
    counts = {name: count(mask) for name, mask in objective.masks(case.batch).items()}
    partial = sum(
        t.coef * aggregate(t.per_token, t.mask, aggregation=objective.aggregation, count=counts[t.name])
        for t in objective.terms(case.batch, now)
    )
    assert torch.equal(partial, whole)


def test_without_a_chosen_token_the_term_is_zero_and_no_perturbed_view_is_run():
    objective = CPPO(cpl_coef=1.0)
    case = prepared(objective, make_case(rewards=(1.0,) * 4))
    assert not case.batch.selections[NAME].any()
    assert not objective.rows("removed", case.batch).any()
    assert total_loss(objective, case).item() == 0.0
    assert all(grad.eq(0).all() for grad in gradients(objective, case).values())


@pytest.mark.parametrize("base", [GRPO(), DAPO()])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_split_and_order_of_rows_do_not_change_loss_or_gradient_when_chosen_in_scoring(base, divergence):
    objective = CPPO(base=base, cpl_coef=1.0, divergence=divergence)
    case = prepared(objective, make_case((5, 2, 4, 0), spread=0.8))
    masks = objective.masks(case.batch)
    terms = objective.terms(case.batch, case.now)
    assert [t.name for t in terms] == list(masks) and all(torch.equal(t.mask, masks[t.name]) for t in terms)
    counts = {name: count(mask) for name, mask in masks.items()}
    whole = total_loss(objective, case)
    parts = sum(total_loss(objective, part(case, rows), counts) for rows in [[3], [2], [1, 0]])
    assert parts.item() == pytest.approx(whole.item(), abs=1e-13)
    for view in ("clean", "removed", "preserved"):
        (a,), (b,) = (torch.autograd.grad(x, case.logits[view], retain_graph=True) for x in (whole, parts))
        assert (a - b).norm() <= 1e-12 * a.norm()


@pytest.mark.parametrize("base", [GRPO(), DAPO()])
def test_chosen_in_the_update_at_the_old_policy_in_one_piece_gives_the_same_loss(base):
    case = make_case((5, 2, 4, 0), spread=0.0)
    losses = [
        total_loss(objective, prepared(objective, case))
        for objective in (CPPO(base=base, cpl_coef=1.0, select_in=where) for where in SELECT_IN)
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


def test_chosen_in_the_update_it_follows_the_running_policy_and_weighs_pieces_by_their_tokens():
    objective = CPPO(base=DAPO(), cpl_coef=1.0, select_in="update", gate=False)
    assert objective.score_views == () and objective.update_views == ("clean", "preserved", "removed")
    case = prepared(objective, make_case((6, 2, 4, 3), spread=2.0))
    assert NAME not in case.batch.selections
    assert torch.equal(objective.masks(case.batch)[NAME], case.batch.inputs.completion_mask)
    counts = {name: count(mask) for name, mask in objective.masks(case.batch).items()}
    added = sum(
        total_loss(objective, part(case, rows), counts) - total_loss(DAPO(), part(case, rows), counts)
        for rows in [[0, 1], [2, 3]]
    )
    expected = 0.0
    for rows in [[0, 1], [2, 3]]:
        piece = part(case, rows)
        mask = piece.batch.inputs.completion_mask
        clean, removed = piece.now["clean"], piece.now["removed"]
        tokens = perception_tokens(clean.entropy, removed.entropy, mask, fraction=0.5, score="absolute")
        gap = [piece.now[view].logprobs - clean.logprobs for view in ("preserved", "removed")]
        kls = [(k.exp() - k - 1).clamp(max=10) for k in gap]
        mean = contrastive_loss(kls[0], kls[1], tau=0.1)[tokens].mean().item()
        expected += mean * int(mask.sum()) / counts[NAME].tokens
    assert added.item() == pytest.approx(expected, rel=1e-5)


def test_k1_is_bounded_as_asked():
    case = prepared(CPPO(gate=False), make_case(spread=30.0))
    bounded, free = (
        CPPO(gate=False, divergence="k1", k1_limit=limit, tau=1.0).terms(case.batch, case.now)[-1]
        for limit in (1.0, math.inf)
    )
    most = math.log1p(math.exp(2.0))
    assert bounded.per_token.amax() <= most < free.per_token.amax()


def test_views_may_have_any_names():
    objective = CPPO(removed_view="gone", preserved_view="kept")
    case = make_case(views=("clean", "gone", "kept"))
    assert objective.views == ("clean", "gone", "kept")
    assert gradients(objective, case)["gone"].abs().sum() > 0


def test_an_unscored_view_and_an_unprepared_batch_are_named():
    objective = CPPO()
    with pytest.raises(FovealError, match="'removed'.*not scored.*occlusion.*select_in"):
        prepared(objective, make_case(views=("clean",)))
    case = make_case()
    with pytest.raises(FovealError, match=r"objective.prepare\(batch\)"):
        objective.masks(case.batch)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("select_in", SELECT_IN)
def test_measures_by_hand(divergence, select_in):
    objective = CPPO(gate=False, divergence=divergence, select_in=select_in)
    case = prepared(objective, make_case((3, 1, 2, 2), spread=0.0))
    mask, tokens = case.batch.inputs.completion_mask, chosen(CPPO(gate=False), case)
    share = tokens.sum().item() / mask.sum().item()
    assert measure(objective, case, "perception/token_fraction") == pytest.approx(share)
    gap = (case.now["clean"].logprobs - case.now["removed"].logprobs)[tokens]
    kl = ((-gap).exp() + gap - 1).clamp(max=10)
    assert measure(objective, case, "perception/removed_kl") == pytest.approx(kl.mean().item())
    if select_in == "scoring":
        scores = case.batch.scores.views
        shift = (scores["removed"].entropy - scores["clean"].entropy)[mask].mean().item()
        gain = (scores["clean"].logprobs - scores["removed"].logprobs)[mask].mean().item()
        assert measure(objective, case, "perception/entropy_shift") == pytest.approx(shift)
        assert measure(objective, case, "perception/information_gain") == pytest.approx(gain)


def test_exact_divergences_are_those_over_the_vocabulary_at_the_chosen_tokens():
    objective = CPPO(divergence="exact", tau=1.0)
    case = prepared(objective, make_case())
    term = objective.terms(case.batch, case.now)[-1]
    clean, preserved, removed = (case.logits[v].log_softmax(-1) for v in ("clean", "preserved", "removed"))
    expected = contrastive_loss(exact_kl(clean, preserved), exact_kl(clean, removed), tau=1.0)
    assert torch.allclose(term.per_token[term.mask], expected[term.mask], atol=1e-14)
