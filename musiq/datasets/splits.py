"""Which labelled images train, which choose the best epoch, which test: drawn from a seed where the labels do not say.

Images of one group never straddle a split drawn here: those with the same value in a column scene, source or reference,
and near duplicates. A split that the label file gives is never changed; what leaks through it is marked and reported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from musiq.datasets.dataset import NEAR_DUPLICATE, SPLITS, Dataset, Labelled
from musiq.errors import MusiqError

GROUP_COLUMNS = ("reference", "scene", "source")
STRICTEST = ("test", "val", "train", "")  # where a group goes whose images other label files put in several splits

NO_PAIRS: NDArray[np.int64] = np.zeros((0, 2), np.int64)


def settle_split(dataset: Dataset, seed: int) -> tuple[Dataset, str]:
    """`settle_splits` of one dataset; the line is "" where the label file said it all."""
    (settled,), lines = settle_splits([dataset], seed)
    return settled, " ".join(lines)


def settle_splits(
    datasets: Sequence[Dataset], seed: int, near: NDArray[np.int64] = NO_PAIRS
) -> tuple[list[Dataset], list[str]]:
    """Every image in train, val or test, and a line for each dataset of which something was drawn.

    A dataset without any split has its `portions` drawn; of one that lacks val, a tenth of train is. `near` are pairs of
    places in the concatenation of the datasets. A group of which another dataset's label file put images somewhere
    follows there, so that no copy of its test images is trained on. Raises MusiqError for a half-filled split column.
    """
    groups = group_ids([item for dataset in datasets for item in dataset.items], near)
    starts = np.cumsum([0, *(len(dataset.items) for dataset in datasets)])
    settled, lines, places = list(datasets), [], dict[int, str]()
    # Those whose split is given first: the drawn ones follow them.
    for k in sorted(range(len(datasets)), key=lambda k: not any(item.split for item in datasets[k].items)):
        own = groups[starts[k] : starts[k + 1]]
        settled[k], line = _settle(datasets[k], own, seed, places)
        lines += [line] if line else []
        for group, item in zip(own, settled[k].items, strict=True):
            places[group] = min(places.get(group, ""), item.split, key=STRICTEST.index)
    return settled, lines


def group_ids(items: Sequence[Labelled], near: NDArray[np.int64] = NO_PAIRS) -> list[int]:
    """A number for each item, the same for items of one group: connected by a shared reference, scene or source of the
    same dataset, or by pairs of near duplicates."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    first: dict[tuple[str, str, str], int] = {}
    links = [near]
    for place, item in enumerate(items):
        for column in GROUP_COLUMNS:
            if value := item.extra.get(column):
                links.append(np.array([[first.setdefault((item.dataset, column, value), place), place]]))
    rows, columns = np.concatenate(links).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(items), len(items)))
    return [int(label) for label in connected_components(graph, directed=False)[1]]


def _settle(dataset: Dataset, groups: list[int], seed: int, places: dict[int, str]) -> tuple[Dataset, str]:
    unsplit = [item.image for item in dataset.items if not item.split]
    if len(unsplit) == len(dataset.items):
        settled = _draw(dataset, "", dict(zip(SPLITS, dataset.portions, strict=True)), seed, groups, places)
        return settled, f"The labels have no split: drew {settled.counts()} with seed {seed}."
    if unsplit:
        raise MusiqError(f"{len(unsplit)} images have no split, {unsplit[0]} first; fill the column or leave it out.")
    if not dataset.split("val"):
        settled = _draw(dataset, "train", {"train": 0.9, "val": 0.1, "test": 0}, seed, groups, places)
        drew = f"drew a tenth of train with seed {seed}: {settled.counts()}"
        return settled, f"The labels have no validation split: {drew}."
    return dataset, ""


def _draw(
    dataset: Dataset, split: str, portions: dict[str, float], seed: int, groups: list[int], places: dict[int, str]
) -> Dataset:
    """Deal the images now in `split` out by `portions`, whole groups at a time."""
    sizes: dict[int, int] = {}
    for item, group in zip(dataset.items, groups, strict=True):
        if item.split == split:
            sizes[group] = sizes.get(group, 0) + 1
    drawn = {group: places[group] for group in sizes if portions.get(places.get(group, ""), 0)}
    free = [group for group in sizes if group not in drawn]
    total = sum(sizes[group] for group in free)
    room = {name: portions[name] * total for name in ("val", "test")}
    for k in np.random.default_rng(seed).permutation(len(free)):
        size = sizes[free[k]]
        into = next((name for name in room if room[name] - size / 2 >= 0), "train")
        drawn[free[k]] = into
        if into != "train":
            room[into] -= size
    _fill_empty(drawn, sizes, [name for name in room if portions[name]])
    moved = (
        dataclasses.replace(item, split=drawn[group]) if item.split == split else item
        for item, group in zip(dataset.items, groups, strict=True)
    )
    return dataclasses.replace(dataset, items=tuple(moved))


def _fill_empty(drawn: dict[int, str], sizes: dict[int, int], names: list[str]) -> None:
    """At least one group each for what is scored, however few there are: the smallest of train."""
    for name in names:
        train = sorted((group for group in drawn if drawn[group] == "train"), key=lambda group: sizes[group])
        if name not in drawn.values() and len(train) > 1:
            drawn[train[0]] = name


def mark_leaks(dataset: Dataset, near: NDArray[np.int64]) -> Dataset:
    """The same with a column near_duplicate_in_train: 1 for a val or test image with a near duplicate in train, 0 for
    the others. A label file's own such column stays: its authors may have seen images that are not here."""
    if any(NEAR_DUPLICATE in item.extra for item in dataset.items):
        return dataset
    leaking = leaks(dataset, near)
    items = (
        dataclasses.replace(item, extra={**item.extra, NEAR_DUPLICATE: str(int(place in leaking))})
        for place, item in enumerate(dataset.items)
    )
    return dataclasses.replace(dataset, items=tuple(items)) if leaking else dataset


def leaks(dataset: Dataset, near: NDArray[np.int64]) -> dict[int, list[int]]:
    """The places of val and test images that have near duplicates in train, each with the places of those."""
    found: dict[int, list[int]] = {}
    for pair in near.tolist():
        for place, other in (pair, pair[::-1]):
            if dataset.items[place].split != "train" and dataset.items[other].split == "train":
                found.setdefault(place, []).append(other)
    return found


def drop_leaks(dataset: Dataset, near: NDArray[np.int64]) -> Dataset:
    """The same without the images of train that are near duplicates of one in val or test."""
    gone = {place for others in leaks(dataset, near).values() for place in others}
    items = (item for place, item in enumerate(dataset.items) if place not in gone)
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
