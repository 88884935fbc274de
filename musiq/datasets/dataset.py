"""What a labelled image and a set of them are, whatever file the labels came from.

Nothing here opens an image or needs torch, so the benchmark uses it too.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from musiq.errors import MusiqError

SPLITS = ("train", "val", "test")
NEAR_DUPLICATE = "near_duplicate_in_train"
"""The column that says 1 of an image of val or test which has a near duplicate in train, else 0."""

KONIQ_MOS = "KonIQ-10k MOS (0-100)"
KONIQ_RATING = "KonIQ-10k mean rating (1-5)"


@dataclass(frozen=True)
class Labelled:
    """One image and its label.

    Attributes:
        image: Its name as the label file has it.
        path: Where the image lies; nobody has looked whether it is there.
        mos: The label (mean opinion score) in the dataset's own units; higher is better.
        split: "train", "val" or "test"; "" where none is given.
        std: Standard deviation of the ratings, in the units of `mos`; None where it is not known.
        shares: Shares of the ratings 1..K, each in [0, 1], summing to 1; None where they are not known.
        extra: Every further column of the label file, by its name.
    """

    image: str
    path: Path
    mos: float
    split: str = ""
    std: float | None = None
    shares: tuple[float, ...] | None = None
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """Which of several datasets it is from: its column `dataset`, "" without one."""
        return self.extra.get("dataset", "")


@dataclass(frozen=True)
class Dataset:
    """Labelled images, and what their labels mean.

    Attributes:
        items: The images, in the order of the label file.
        root: The folder that their names are relative to.
        target: What the labels are, as every figure names it: "KonIQ-10k MOS (0-100)".
        score_range: (worst, best) possible label; None where it is not known.
        portions: Of train, val and test, summing to 1, where the label file has no split.
    """

    items: tuple[Labelled, ...]
    root: Path
    target: str
    score_range: tuple[float, float] | None = None
    portions: tuple[float, float, float] = (0.8, 0.1, 0.1)

    def split(self, name: str) -> list[Labelled]:
        """The images of one split; those without any for ""."""
        return [item for item in self.items if item.split == name]

    def training(self, train_on: str = "train") -> list[Labelled]:
        """The images that are trained on: those of "train", or of "train+val"."""
        return [item for item in self.items if item.split in train_on.split("+")]

    def counts(self) -> str:
        """How many images each split has, for people: "7058 train, 1000 val, 2015 test"."""
        return ", ".join(f"{len(self.split(name))} {name}" for name in SPLITS)

    def match(self, images: Iterable[Path]) -> list[Labelled | None]:
        """Find the labels of image files.

        Args:
            images: Paths of any kind; they are resolved.

        Returns:
            For each the labelled image of the same file, else the only one with the same file name, else None.
        """
        by_path = {item.path.resolve(): item for item in self.items}
        by_name: dict[str, list[Labelled]] = {}
        for item in self.items:
            by_name.setdefault(item.path.name, []).append(item)

        def find(image: Path) -> Labelled | None:
            namesakes = by_name.get(image.name, [])
            return by_path.get(image.resolve()) or (namesakes[0] if len(namesakes) == 1 else None)

        return [find(image) for image in images]


def missing(items: Sequence[Labelled]) -> list[Labelled]:
    """Those whose image is not there, or on storage that does not answer."""
    return [item for item in items if not os.path.isfile(item.path)]  # Path.is_file raises for the latter


def dataset_numbers(items: Sequence[Labelled]) -> list[int]:
    """For each item the number of its dataset, counted from 0 in their order: pairs of one number can be ranked by their
    labels, others cannot, having been rated by other people on other scales."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(item.dataset, len(numbers)) for item in items]


def rating_mean_std(shares: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of the ratings 1..K with these shares, which sum to 1."""
    mean = sum(rating * share for rating, share in enumerate(shares, 1))
    return mean, math.sqrt(max(0.0, sum((rating - mean) ** 2 * share for rating, share in enumerate(shares, 1))))


def as_shares(dataset: Dataset, ratings: int) -> Dataset:
    """The same images with the mean of their shares for a label.

    Args:
        dataset: Images with `shares`.
        ratings: How many ratings there are: 1..ratings.

    Returns:
        Labels and `score_range` are 1..ratings, and `target` says so.

    Raises:
        MusiqError: An image has no such shares.
    """
    found = {len(item.shares or ()) for item in dataset.items}
    if found != {ratings}:
        has = f"c1..c{max(found)}" if max(found) else "none"
        raise MusiqError(
            f"--outputs {ratings} learns the shares of {ratings} ratings: the labels need the columns c1..c{ratings}, and "
            f"have {has}. Add them, or use --outputs {max(found) or 1}."
        )
    items = tuple(dataclasses.replace(item, mos=rating_mean_std(item.shares or ())[0]) for item in dataset.items)
    koniq = dataset.target in (KONIQ_MOS, KONIQ_RATING)
    target = KONIQ_RATING if koniq else f"mean rating (1-{ratings}) of {dataset.target.removeprefix('mos of ')}"
    return dataclasses.replace(dataset, items=items, target=target, score_range=(1.0, float(ratings)))
