"""The choice of a model for each image, where there are several of different shapes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from musiq.errors import MusiqError
from musiq.spec import Spec


def nearest(specs: Sequence[Spec], height: int, width: int) -> int:
    """The index of the model whose width:height is nearest to the image's, as a ratio of ratios; ties to the first.

    Exact arithmetic: a square is as far from 4:3 as from 3:4, and goes to the first of the two.
    """
    if len(specs) == 1:
        return 0
    return min(range(len(specs)), key=lambda index: _distance(specs[index], height, width))


def _distance(spec: Spec, height: int, width: int) -> Fraction:
    """How many times one of the aspect ratios is the other, at least 1: the exponential of their log ratio."""
    rows, columns = spec.fixed_size
    one, other = width * rows, height * columns
    return Fraction(max(one, other), min(one, other))


def check_mixture(names: Sequence[str], specs: Sequence[Spec]) -> None:
    """Raise MusiqError unless the models' scores mean the same and each has a shape of its own."""
    first = specs[0]
    for name, spec in zip(names, specs, strict=True):
        if spec.any_size and len(specs) > 1:
            raise MusiqError(
                f"{name} takes images of any size, so there is none left for another model. Give it alone, or models of "
                "one size each."
            )
    for index, spec in enumerate(specs):
        for what in ("target", "outputs", "score_range"):
            mine, its = getattr(first, what), getattr(spec, what)
            if mine != its:
                raise MusiqError(
                    f"{names[0]} and {names[index]} cannot score together: their {what} is {mine!r} and {its!r}. "
                    "Give models of the same training, exported at different sizes."
                )
        for other in range(index):
            if _distance(spec, *specs[other].fixed_size) == 1:
                raise MusiqError(
                    f"{names[other]} and {names[index]} have the same aspect ratio, so no image would go to the "
                    "second. Give one of them, or models for landscape and portrait."
                )
