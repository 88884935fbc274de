"""Training losses on scores, on pairs of scores and on distributions of ratings, and weighted sums of them.

Plain functions, each a scalar over a batch of B images, in literal tables by their names; "l1+0.5*ranking" is a sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from musiq.errors import MusiqError

if TYPE_CHECKING:
    from torch import Tensor

MARGIN = 0.1
"""Of `ranking`: with one output scores are z-scores, so a pair must be apart by a tenth of the labels' deviation."""

FLOOR = 1e-12
"""Under square roots and quotients, where an exact prediction would have an infinite slope."""


def l1(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference.

    Args:
        predicted: Scores, float (B,).
        wanted: The labels, float (B,).

    Returns:
        Scalar, from 0, in the units of the scores.
    """
    return (predicted - wanted).abs().mean()


def mse(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference.

    Args:
        predicted: Scores, float (B,).
        wanted: The labels, float (B,).

    Returns:
        Scalar, from 0, in the units of the scores squared.
    """
    return (predicted - wanted).square().mean()


def ranking(predicted: Tensor, wanted: Tensor, groups: Tensor | None = None, margin: float = MARGIN) -> Tensor:
    """Pairwise hinge: the mean of max(0, margin - (p_i - p_j)) over all ordered pairs with wanted_i > wanted_j.

    Args:
        predicted: Scores p, float (B,).
        wanted: The labels, float (B,).
        groups: int64 (B,): only images of one group are compared, because the scores of two datasets have no common
            order; None: all are.
        margin: By how much the better image's score must be the higher one, in the units of the scores.

    Returns:
        Scalar, from 0; 0 for a batch without such a pair.

    References:
        X. Liu, J. van de Weijer, A. D. Bagdanov, "RankIQA: Learning from Rankings for No-reference Image Quality
        Assessment", ICCV 2017, arXiv:1707.08347; here over all pairs of a batch.
    """
    ahead = predicted[:, None] - predicted[None, :]  # (B, B)
    better = ((wanted[:, None] > wanted[None, :]) & _together(wanted, groups)).to(predicted.dtype)
    return ((margin - ahead).clamp(min=0) * better).sum() / better.sum().clamp(min=1)


def fidelity(predicted: Tensor, wanted: Tensor, groups: Tensor | None = None) -> Tensor:
    """Fidelity of the pairs' order: the mean of 1 - sqrt(q q') - sqrt((1 - q)(1 - q')) over all pairs.

    q' = Phi((p_i - p_j) / sqrt(2)) is the predicted probability that i is better (Thurstone's case V), q is 1, 1/2 or 0 by
    the labels.

    Args:
        predicted: Scores p, float (B,).
        wanted: The labels, float (B,).
        groups: int64 (B,): only images of one group are compared; None: all are.

    Returns:
        Scalar in [0, 1]; 0 for a batch without a pair.

    References:
        M.-F. Tsai et al., "FRank: A Ranking Method with Fidelity Loss", SIGIR 2007, doi:10.1145/1277741.1277808.
        W. Zhang et al., "Uncertainty-Aware Blind Image Quality Assessment in the Laboratory and Wild" (UNIQUE), 2021,
        arXiv:2005.13983, whose q also knows the deviation of the ratings.
    """
    ahead = (predicted[:, None] - predicted[None, :]).double()  # (B, B); Phi of float32 is 0 or 1 too early
    # (1 + sign) / 2 over both orders of a pair: 1 - sqrt(q q') - sqrt((1 - q)(1 - q')) is the same for (j, i).
    q = (1 + (wanted[:, None] - wanted[None, :]).sign().double()) / 2
    better = _normal(ahead)
    kept = (q * better).clamp(min=FLOOR).sqrt() + ((1 - q) * (1 - better)).clamp(min=FLOOR).sqrt()
    pairs = _together(wanted, groups).triu(diagonal=1).double()
    return (((1 - kept) * pairs).sum() / pairs.sum().clamp(min=1)).to(predicted.dtype)


def plcc(predicted: Tensor, wanted: Tensor, groups: Tensor | None = None) -> Tensor:
    """(1 - r) / 2 with Pearson's r over the batch; with groups the mean of theirs, weighted by images.

    Args:
        predicted: Scores, float (B,).
        wanted: The labels, float (B,).
        groups: int64 (B,); groups of one image have no r and count as nothing. None: all images are one group.

    Returns:
        Scalar in [0, 1].

    References:
        D. Li, T. Jiang, M. Jiang, "Unified Quality Assessment of In-the-Wild Videos with Mixed Datasets Training"
        (MDTVSFA), IJCV 2021, arXiv:2011.04263, its loss of linearity.
    """
    same = _together(wanted, groups).to(predicted.dtype)  # (B, B)
    count = same.sum(dim=1)
    p, y = predicted - same @ predicted / count, wanted - same @ wanted / count
    deviations = ((same @ p.square()) * (same @ y.square())).clamp(min=FLOOR).sqrt()
    r = (same @ (p * y)) / deviations  # (B,): of each image's group
    several = (count > 1).to(predicted.dtype)
    return ((1 - r) / 2 * several).sum() / several.sum().clamp(min=1)


def emd(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Earth mover's distance with r = 2: sqrt(mean_k (CDF_p(k) - CDF_q(k))^2), the mean over the images.

    Args:
        predicted: Shares of the ratings 1..K, float (B, K), each row summing to 1.
        wanted: Those of the labels, alike.

    Returns:
        Scalar in [0, 1].

    References:
        H. Talebi, P. Milanfar, "NIMA: Neural Image Assessment", IEEE TIP 2018, arXiv:1709.05424, equation 1.
    """
    gaps = (predicted - wanted).cumsum(dim=1)  # (B, K)
    return gaps.square().mean(dim=1).clamp(min=FLOOR).sqrt().mean()


def emd1(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Earth mover's distance with r = 1: mean_k |CDF_p(k) - CDF_q(k)|, the mean over the images.

    Args:
        predicted: Shares of the ratings 1..K, float (B, K), each row summing to 1.
        wanted: Those of the labels, alike.

    Returns:
        Scalar in [0, 1].
    """
    return (predicted - wanted).cumsum(dim=1).abs().mean()


def _together(scores: Tensor, groups: Tensor | None) -> Tensor:
    """Which images may be compared, bool (B, B)."""
    groups = scores.new_zeros(len(scores)) if groups is None else groups
    return groups[:, None] == groups[None, :]


def _normal(difference: Tensor) -> Tensor:
    """Phi(difference / sqrt(2)), the normal distribution's share below."""
    return (1 + (difference / 2).erf()) / 2


LossFunction = Callable[["Tensor", "Tensor"], "Tensor"]
PairLoss = Callable[["Tensor", "Tensor", "Tensor | None"], "Tensor"]

ON_SCORES: dict[str, LossFunction] = {"l1": l1, "mse": mse}
ON_PAIRS: dict[str, PairLoss] = {"ranking": ranking, "fidelity": fidelity, "plcc": plcc}
ON_SHARES: dict[str, LossFunction] = {"emd": emd, "emd1": emd1}
NAMES = (*ON_SCORES, *ON_PAIRS, *ON_SHARES)

Terms = tuple[tuple[float, str], ...]


def parse(text: str, outputs: int = 1) -> Terms:
    """Read a weighted sum of losses.

    Args:
        text: Names of losses, each with a weight before it where that is not 1: "l1+0.5*ranking".
        outputs: Of the model: 1 for a score, K > 1 for the shares of the ratings 1..K.

    Returns:
        A weight and name for each term: ((1.0, "l1"), (0.5, "ranking")).

    Raises:
        MusiqError: A name is not in the tables, a weight is no positive number, or a loss is on shares and the model has
            one output.
    """
    return tuple(_term(part, text, outputs) for part in text.replace(" ", "").split("+"))


def _term(part: str, text: str, outputs: int) -> tuple[float, str]:
    weight_text, star, name = part.rpartition("*")
    try:
        weight = float(weight_text) if star else 1.0
    except ValueError:
        weight = -1.0
    if not 0 < weight < math.inf:
        raise MusiqError(f"--loss {text!r}: {weight_text!r} is no positive weight; write for example l1+0.5*ranking.")
    if name not in NAMES:
        raise MusiqError(f"--loss {text!r}: there is no loss {name!r}; the losses are {', '.join(NAMES)}.")
    if name in ON_SHARES and outputs == 1:
        raise MusiqError(f"--loss {text!r}: {name} compares distributions; give --outputs 5 (or 10), or use l1 or mse.")
    return weight, name


def over_pairs(terms: Terms) -> bool:
    """Whether any of these compares images with each other, so that a batch is more than the sum of its parts."""
    return any(name in ON_PAIRS for _, name in terms)


FEWEST = {"ranking": 2, "fidelity": 2, "plcc": 3}
"""Images of one dataset without which these are constant: r of two points is 1 or -1, wherever they lie."""


def check_pairs(terms: Terms, size: int, labels: Sequence[float], datasets: Sequence[int]) -> None:
    """Raise MusiqError where a loss over pairs has nothing to compare in any batch: it would be constant, unnoticed.

    Args:
        terms: By `parse`.
        size: Images in a step, over all processes.
        labels: Of the images to train on.
        datasets: The number of each one's dataset; only images of one are compared.
    """
    groups: dict[int, list[float]] = {}
    for label, number in zip(labels, datasets, strict=True):
        groups.setdefault(number, []).append(label)
    largest = max(map(len, groups.values()), default=0)
    for name in (name for _, name in terms if name in ON_PAIRS):
        fewest, otherwise = FEWEST[name], "or use --loss l1"
        what = f"--loss {name} compares the images of a batch and learns nothing from fewer than {fewest}"
        if size < fewest:
            raise MusiqError(
                f"{what}; here a batch, over all processes, is {size} of {len(labels)}. Give a larger --batch-size, "
                f"{otherwise}."
            )
        if largest < fewest:
            raise MusiqError(f"{what} of one dataset; there are at most {largest} to train on. Add some, {otherwise}.")
        if name != "fidelity" and all(len(set(group)) < 2 for group in groups.values()):  # which learns equality
            raise MusiqError(f"--loss {name} learns nothing from labels that are all equal. Give others, {otherwise}.")


def total(
    terms: Terms,
    scores: tuple[Tensor, Tensor],
    shares: tuple[Tensor, Tensor] | None,
    margin: float = MARGIN,
    groups: Tensor | None = None,
) -> Tensor:
    """The weighted sum of losses.

    Args:
        terms: By `parse`.
        scores: Predicted and wanted, float (B,) each.
        shares: Predicted and wanted, float (B, K) each; None for a model of one output.
        margin: Of `ranking`.
        groups: int64 (B,), see `ranking`.

    Returns:
        Scalar.
    """
    result = scores[0].new_zeros(())
    for weight, name in terms:
        result = result + weight * _one(name, scores, shares, margin, groups)
    return result


def _one(
    name: str,
    scores: tuple[Tensor, Tensor],
    shares: tuple[Tensor, Tensor] | None,
    margin: float,
    groups: Tensor | None,
) -> Tensor:
    if name in ON_SHARES:
        assert shares is not None  # parse() refuses such a loss for a model without shares
        return ON_SHARES[name](*shares)
    if name == "ranking":
        return ranking(*scores, groups, margin)
    return ON_PAIRS[name](*scores, groups) if name in ON_PAIRS else ON_SCORES[name](*scores)
