"""Losses against formulas written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from musiq.errors import MusiqError
from musiq.losses import emd, emd1, l1, mse, parse, ranking, total

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


@pytest.mark.parametrize(
    ("text", "outputs", "says"),
    [
        ("l3", 1, "no loss 'l3'; the losses are l1, mse, ranking, emd, emd1"),
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
