"""Losses against formulas written out in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm, pearsonr

from musiq.errors import MusiqError
from musiq.training.losses import emd, emd1, fidelity, l1, mse, over_pairs, parse, plcc, ranking, total

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
P, Y = RNG.normal(size=6), RNG.normal(size=6)
SHARES, WANTED = RNG.dirichlet(np.ones(5), 6), RNG.dirichlet(np.ones(5), 6)


def test_l1_and_mse_are_the_mean_absolute_and_squared_difference() -> None:
    p, y = torch.tensor(P), torch.tensor(Y)
    assert l1(p, y).item() == pytest.approx(np.mean(np.abs(P - Y)))
    assert mse(p, y).item() == pytest.approx(np.mean((P - Y) ** 2))


def test_ranking_is_the_mean_hinge_over_all_pairs_that_the_labels_order() -> None:
    hinges = [max(0, 0.1 - (P[i] - P[j])) for i in range(6) for j in range(6) if Y[i] > Y[j]]
    assert ranking(torch.tensor(P), torch.tensor(Y)).item() == pytest.approx(sum(hinges) / len(hinges))


def test_ranking_of_a_batch_without_an_ordered_pair_is_zero_with_a_gradient() -> None:
    p = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = ranking(p, torch.tensor([3.0, 3.0]))
    loss.backward()
    assert loss.item() == 0
    assert p.grad.tolist() == [0, 0]


def test_fidelity_is_one_minus_the_overlap_of_each_pairs_two_chances() -> None:
    wanted, losses = np.array([*Y[:5], Y[0]]), []  # the last ties with the first
    for i in range(6):
        for j in range(i):
            predicted = norm.cdf((P[i] - P[j]) / np.sqrt(2))
            q = 1.0 if wanted[i] > wanted[j] else 0.5 if wanted[i] == wanted[j] else 0.0
            losses.append(1 - np.sqrt(q * predicted) - np.sqrt((1 - q) * (1 - predicted)))
    # The floor under its roots is worth 1e-6.
    assert fidelity(torch.tensor(P), torch.tensor(wanted)).item() == pytest.approx(np.mean(losses), abs=2e-6)


def test_fidelity_of_a_hopelessly_wrong_order_still_has_a_finite_gradient_that_mends_it() -> None:
    p = torch.tensor([4.0, -4.0], requires_grad=True)
    fidelity(p, torch.tensor([0.0, 1.0])).backward()
    assert torch.isfinite(p.grad).all()
    assert p.grad[0] > 0 > p.grad[1]


def test_plcc_is_half_of_what_pearsons_r_lacks_of_one() -> None:
    assert plcc(torch.tensor(P), torch.tensor(Y)).item() == pytest.approx((1 - pearsonr(P, Y).statistic) / 2)
    assert plcc(3 * torch.tensor(Y) + 7, torch.tensor(Y)).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("scores", [[2.0, 2.0, 2.0], [1.0]])
def test_plcc_of_scores_without_a_correlation_has_a_finite_gradient(scores: list[float]) -> None:
    p = torch.tensor(scores, requires_grad=True)
    plcc(p, torch.arange(float(len(scores)))).backward()
    assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize("loss", [ranking, fidelity])
def test_pairs_of_different_groups_do_not_count(loss: Callable[..., torch.Tensor]) -> None:
    p, y = torch.tensor(P), torch.tensor(Y)
    groups = torch.tensor([0, 1, 0, 1, 0, 1])
    first, second = loss(p[::2], y[::2]), loss(p[1::2], y[1::2])  # three pairs each
    assert loss(p, y, groups).item() == pytest.approx((first + second).item() / 2)
    moved = p + 100 * groups  # one dataset's scores are all higher: that is no mistake
    assert loss(moved, y, groups).item() == pytest.approx(loss(p, y, groups).item())
    assert loss(moved, y).item() != pytest.approx(loss(p, y).item())


def test_plcc_of_groups_is_the_mean_of_theirs_by_images_and_single_ones_count_for_nothing() -> None:
    groups = torch.tensor([0, 0, 1, 1, 1, 2])
    expected = (2 * (1 - pearsonr(P[:2], Y[:2]).statistic) + 3 * (1 - pearsonr(P[2:5], Y[2:5]).statistic)) / 2 / 5
    assert plcc(torch.tensor(P), torch.tensor(Y), groups).item() == pytest.approx(expected)


def test_emd_is_the_distance_of_the_cumulated_shares() -> None:
    gaps = np.abs(np.cumsum(SHARES, axis=1) - np.cumsum(WANTED, axis=1))
    p, y = torch.tensor(SHARES), torch.tensor(WANTED)
    assert emd(p, y).item() == pytest.approx(np.mean(np.sqrt(np.mean(gaps**2, axis=1))))
    assert emd1(p, y).item() == pytest.approx(np.mean(gaps))


def test_emd_of_an_exact_prediction_has_a_finite_gradient() -> None:
    p = torch.tensor(SHARES, requires_grad=True)
    emd(p, torch.tensor(SHARES)).backward()
    assert torch.isfinite(p.grad).all()


def test_emd_sees_how_far_a_share_moved_where_l1_of_shares_would_not() -> None:
    wanted = torch.tensor([[1.0, 0, 0, 0, 0]])
    near, far = torch.tensor([[0, 1.0, 0, 0, 0]]), torch.tensor([[0, 0, 0, 0, 1.0]])
    assert emd(near, wanted).item() == pytest.approx(np.sqrt(1 / 5))
    assert emd(far, wanted).item() == pytest.approx(np.sqrt(4 / 5))


def test_a_weighted_sum_is_the_sum_of_its_weighted_terms() -> None:
    terms = parse("l1 + 0.5*ranking+2*emd", outputs=5)
    assert terms == ((1.0, "l1"), (0.5, "ranking"), (2.0, "emd"))
    scores = torch.tensor(P), torch.tensor(Y)
    shares = torch.tensor(SHARES), torch.tensor(WANTED)
    expected = l1(*scores) + 0.5 * ranking(*scores, margin=0.3) + 2 * emd(*shares)
    assert total(terms, scores, shares, margin=0.3).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", ["ranking", "fidelity", "plcc"])
def test_a_sum_hands_groups_to_its_losses_over_pairs(name: str) -> None:
    scores, groups = (torch.tensor(P), torch.tensor(Y)), torch.tensor([0, 0, 0, 1, 1, 1])
    terms = parse(f"mse+2*{name}")
    assert over_pairs(terms)
    assert not over_pairs(parse("mse+l1"))
    loss = {"ranking": ranking, "fidelity": fidelity, "plcc": plcc}[name]
    expected = mse(*scores) + 2 * loss(*scores, groups)
    assert total(terms, scores, None, groups=groups).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("text", "outputs", "says"),
    [
        ("l3", 1, "no loss 'l3'; the losses are l1, mse, ranking, fidelity, plcc, emd, emd1"),
        ("half*l1", 1, "'half' is no positive weight"),
        ("-1*l1", 1, "'-1' is no positive weight"),
        ("l1+", 1, "no loss ''"),
        ("emd", 1, "give --outputs 5"),
    ],
)
def test_a_loss_that_cannot_be_is_named(text: str, outputs: int, says: str) -> None:
    with pytest.raises(MusiqError) as caught:
        parse(text, outputs)
    assert says in str(caught.value)
