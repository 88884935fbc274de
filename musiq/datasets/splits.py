"""Draws train, val and test splits from a seed where the labels have none, and finds what leaks from train into the others.

Images of one group never straddle a split drawn here: those with the same value in a column scene, source or reference,
and near duplicates. A split that the label file gives is never changed; what leaks through it is marked and reported.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from musiq.datasets.dataset import NEAR_DUPLICATE, SPLITS, Dataset, Labelled
from musiq.errors import MusiqError

GROUP_COLUMNS = ("reference", "scene", "source")
STRICTEST = ("test", "val", "train", "")  # where a group goes whose images other label files put in several splits
DRAWN_FIRST = ("val", "test")  # train is the rest

NO_PAIRS: NDArray[np.int64] = np.zeros((0, 2), np.int64)


def settle_splits(
    datasets: Sequence[Dataset], seed: int, near: NDArray[np.int64] = NO_PAIRS
) -> tuple[list[Dataset], list[str]]:
    """Put every image into train, val or test.

    A dataset without any split has its `portions` drawn; of one that lacks val, a tenth of train is. A group of which
    another dataset's label file put images somewhere follows there, so that no copy of its test images is trained on.

    Args:
        datasets: What is trained on together.
        seed: Decides what is drawn; the same gives the same.
        near: Pairs of near duplicates, int64 (P, 2), as indices into the items of all datasets one after the other.

    Returns:
        The datasets with their splits, and a line for people for each dataset of which something was drawn.

    Raises:
        MusiqError: A split column is filled in part.
    """
    groups = group_ids([item for dataset in datasets for item in dataset.items], near)
    starts = np.cumsum([0, *(len(dataset.items) for dataset in datasets)])
    settled, lines, split_of = list(datasets), [], dict[int, str]()
    # Those whose split is given first: the drawn ones follow them.
    for k in sorted(range(len(datasets)), key=lambda k: not any(item.split for item in datasets[k].items)):
        own_groups = groups[starts[k] : starts[k + 1]]
        settled[k], line = _settle(datasets[k], own_groups, seed, split_of)
        lines += [line] if line else []
        for group, item in zip(own_groups, settled[k].items, strict=True):
            split_of[group] = min(split_of.get(group, ""), item.split, key=STRICTEST.index)
    return settled, lines


def deal_folds(dataset: Dataset, fold: str, near: NDArray[np.int64] = NO_PAIRS) -> Dataset:
    """Deal the images of train and val anew into folds, whole groups at a time, in an order that never changes.

    Args:
        dataset: Every image in a split; those of test stay there.
        fold: "2/5" for the second of five, which becomes val; the others become train.
        near: Pairs of near duplicates, int64 (P, 2), as indices into its items.

    Raises:
        MusiqError: There is no such fold.
    """
    found = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", fold)
    groups = group_ids(dataset.items, near)
    free = list(dict.fromkeys(group for group, item in zip(groups, dataset.items, strict=True) if item.split != "test"))
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count or not 2 <= count <= len(free):
        raise MusiqError(
            f"--fold {fold} is none; expected K/N, such as 1/5 for the first of five, and N of 2 to the {len(free)} "
            "groups of images outside test."
        )
    order = np.random.default_rng(0).permutation(len(free))
    chosen = {free[index] for place, index in enumerate(order) if place % count == number - 1}
    items = (
        item if item.split == "test" else dataclasses.replace(item, split="val" if group in chosen else "train")
        for group, item in zip(groups, dataset.items, strict=True)
    )
    return dataclasses.replace(dataset, items=tuple(items))


def group_ids(items: Sequence[Labelled], near: NDArray[np.int64] = NO_PAIRS) -> list[int]:
    """A number for each item, the same for items of one group: connected by a shared reference, scene or source of the
    same dataset, or by pairs of near duplicates."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    first: dict[tuple[str, str, str], int] = {}
    links = [near]
    for index, item in enumerate(items):
        for column in GROUP_COLUMNS:
            if value := item.extra.get(column):
                links.append(np.array([[first.setdefault((item.dataset, column, value), index), index]]))
    rows, columns = np.concatenate(links).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(items), len(items)))
    return [int(label) for label in connected_components(graph, directed=False)[1]]


def _settle(dataset: Dataset, groups: list[int], seed: int, split_of: dict[int, str]) -> tuple[Dataset, str]:
    unsplit = [item.image for item in dataset.items if not item.split]
    if len(unsplit) == len(dataset.items):
        settled = _draw(dataset, "", dict(zip(SPLITS, dataset.portions, strict=True)), seed, groups, split_of)
        return settled, f"The labels have no split: drew {settled.counts()} with seed {seed}."
    if unsplit:
        raise MusiqError(f"{len(unsplit)} images have no split, {unsplit[0]} first; fill the column or leave it out.")
    if not dataset.split("val"):
        settled = _draw(dataset, "train", {"train": 0.9, "val": 0.1, "test": 0}, seed, groups, split_of)
        drew = f"drew a tenth of train with seed {seed}: {settled.counts()}"
        return settled, f"The labels have no validation split: {drew}."
    return dataset, ""


def _draw(
    dataset: Dataset, split: str, portions: dict[str, float], seed: int, groups: list[int], split_of: dict[int, str]
) -> Dataset:
    """Deal the images that are in `split` out by `portions`, whole groups at a time.

    A group goes where `split_of` says that another dataset has it, if there is a portion of that; the others are drawn.
    """
    sizes = Counter(group for item, group in zip(dataset.items, groups, strict=True) if item.split == split)
    followed = {group: split_of[group] for group in sizes if portions.get(split_of.get(group, ""), 0)}
    free = {group: size for group, size in sizes.items() if group not in followed}
    dealt = followed | _draw_groups(free, portions, seed)
    _fill_empty(dealt, sizes, [name for name in DRAWN_FIRST if portions[name]])
    items = (
        dataclasses.replace(item, split=dealt[group]) if item.split == split else item
        for item, group in zip(dataset.items, groups, strict=True)
    )
    return dataclasses.replace(dataset, items=tuple(items))


def _draw_groups(sizes: dict[int, int], portions: dict[str, float], seed: int) -> dict[int, str]:
    """A split for each group: in random order they fill val and test up to their portions of all images, then train."""
    groups, images = list(sizes), sum(sizes.values())
    lacking = {name: portions[name] * images for name in DRAWN_FIRST}  # images
    drawn: dict[int, str] = {}
    for k in np.random.default_rng(seed).permutation(len(groups)):
        group, size = groups[k], sizes[groups[k]]
        # A split takes a group of which it lacks at least half, so that it ends as near its portion as groups allow.
        drawn[group] = next((name for name in lacking if lacking[name] >= size / 2), "train")
        if drawn[group] != "train":
            lacking[drawn[group]] -= size
    return drawn


def _fill_empty(dealt: dict[int, str], sizes: dict[int, int], names: list[str]) -> None:
    """At least one group each for what is scored, however few there are: the smallest of train."""
    for name in names:
        train = sorted((group for group in dealt if dealt[group] == "train"), key=lambda group: sizes[group])
        if name not in dealt.values() and len(train) > 1:
            dealt[train[0]] = name


def mark_leaks(dataset: Dataset, near: NDArray[np.int64]) -> Dataset:
    """The same with a column near_duplicate_in_train: 1 for a val or test image with a near duplicate in train, 0 for
    the others. A label file's own such column stays: its authors may have seen images that are not here."""
    if any(NEAR_DUPLICATE in item.extra for item in dataset.items):
        return dataset
    leaking = leaks(dataset, near)
    items = (
        dataclasses.replace(item, extra={**item.extra, NEAR_DUPLICATE: str(int(index in leaking))})
        for index, item in enumerate(dataset.items)
    )
    return dataclasses.replace(dataset, items=tuple(items)) if leaking else dataset


def leaks(dataset: Dataset, near: NDArray[np.int64]) -> dict[int, list[int]]:
    """The indices of val and test images that have near duplicates in train, each with the indices of those."""
    found: dict[int, list[int]] = {}
    for pair in near.tolist():
        for index, other in (pair, pair[::-1]):
            if dataset.items[index].split != "train" and dataset.items[other].split == "train":
                found.setdefault(index, []).append(other)
    return found


def drop_leaks(dataset: Dataset, near: NDArray[np.int64]) -> Dataset:
    """The same without the images of train that are near duplicates of one in val or test."""
    gone = {index for others in leaks(dataset, near).values() for index in others}
    items = (item for index, item in enumerate(dataset.items) if index not in gone)
    return dataclasses.replace(dataset, items=tuple(items))


def sample(dataset: Dataset, most: int, seed: int) -> Dataset:
    """At most `most` images, drawn from the seed, each split (or those without one) in its proportion."""
    if most >= len(dataset.items):
        return dataset
    kept: set[str] = set()
    for name in ("", *SPLITS):
        names = [item.image for item in dataset.split(name)]
        count = min(len(names), max(1, round(most * len(names) / len(dataset.items))))
        kept.update(names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count])
    return dataclasses.replace(dataset, items=tuple(item for item in dataset.items if item.image in kept))
