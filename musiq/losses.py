"""Training losses: plain functions and one literal table; weighted sums such as "l1+0.5*ranking".

Losses on scores take predicted and wanted scores, float (B,); losses on shares take the predicted and wanted shares of
the ratings 1..K, float (B, K), each row summing to 1. All return a scalar, the mean over the batch (or its pairs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from musiq.errors import MusiqError

if TYPE_CHECKING:
    from torch import Tensor

MARGIN = 0.1
"""Of `ranking`: with one output scores are z-scores, so a pair must be apart by a tenth of the labels' deviation."""


def l1(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (predicted - wanted).abs().mean()


def mse(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference."""
    return (predicted - wanted).square().mean()


def ranking(predicted: Tensor, wanted: Tensor, margin: float = MARGIN) -> Tensor:
    """Pairwise hinge: the mean of max(0, margin - (p_i - p_j)) over all ordered pairs with wanted_i > wanted_j.

    Zero for a batch without such a pair. As RankIQA (Liu et al., ICCV 2017, arXiv 1707.08347), over all pairs of a batch.
    """
    ahead = predicted[:, None] - predicted[None, :]  # (B, B)
    better = (wanted[:, None] > wanted[None, :]).to(predicted.dtype)
    return ((margin - ahead).clamp(min=0) * better).sum() / better.sum().clamp(min=1)


def emd(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Earth mover's distance with r = 2: sqrt(mean_k (CDF_p(k) - CDF_q(k))^2), as NIMA (arXiv 1709.05424, eq. 1)."""
    gaps = (predicted - wanted).cumsum(dim=1)  # (B, K)
    # The floor keeps the root's slope finite where a prediction is exact.
    return gaps.square().mean(dim=1).clamp(min=1e-12).sqrt().mean()


def emd1(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Earth mover's distance with r = 1: mean_k |CDF_p(k) - CDF_q(k)|."""
    return (predicted - wanted).cumsum(dim=1).abs().mean()


LossFunction = Callable[["Tensor", "Tensor"], "Tensor"]

ON_SCORES: dict[str, LossFunction] = {"l1": l1, "mse": mse, "ranking": ranking}
ON_SHARES: dict[str, LossFunction] = {"emd": emd, "emd1": emd1}

Terms = tuple[tuple[float, str], ...]


def parse(text: str, outputs: int = 1) -> Terms:
    """Read "l1+0.5*ranking" into ((1.0, "l1"), (0.5, "ranking")), for a model of so many outputs.

    Raises MusiqError for a name that is not in the tables, a weight that is not a positive number, and a loss on shares
    for a model of one output.
    """
    return tuple(_term(part, text, outputs) for part in text.replace(" ", "").split("+"))


def _term(part: str, text: str, outputs: int) -> tuple[float, str]:
    known = ", ".join([*ON_SCORES, *ON_SHARES])
    weight_text, star, name = part.rpartition("*")
    try:
        weight = float(weight_text) if star else 1.0
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf"):
        raise MusiqError(f"--loss {text!r}: {weight_text!r} is no positive weight; write for example l1+0.5*ranking.")
    if name not in ON_SCORES and name not in ON_SHARES:
        raise MusiqError(f"--loss {text!r}: there is no loss {name!r}; the losses are {known}.")
    if name in ON_SHARES and outputs == 1:
        raise MusiqError(f"--loss {text!r}: {name} compares distributions; give --outputs 5 (or 10), or use l1 or mse.")
    return weight, name


def total(
    terms: Terms, scores: tuple[Tensor, Tensor], shares: tuple[Tensor, Tensor] | None, margin: float = MARGIN
) -> Tensor:
    """The weighted sum of `terms`; `scores` and `shares` are (predicted, wanted), `margin` is that of `ranking`."""
    parts = []
    for weight, name in terms:
        if name in ON_SHARES:
            assert shares is not None  # parse() refuses such a loss for a model without shares
            parts.append(weight * ON_SHARES[name](*shares))
        elif name == "ranking":
            parts.append(weight * ranking(*scores, margin=margin))
        else:
            parts.append(weight * ON_SCORES[name](*scores))
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result
