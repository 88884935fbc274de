"""Label files: reads a CSV of images and their labels (a manifest) and KonIQ-10k's tables, and writes a manifest.

The tables of the other public datasets are read by `musiq.datasets.public_readers`.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from musiq.datasets.dataset import KONIQ_MOS, KONIQ_RATING, Dataset, Labelled
from musiq.datasets.table import Row, decoded_text, number_in, read_table
from musiq.errors import MusiqError
from musiq.files import atomic_write, local_name

KONIQ_FOLDER = "1024x768"

# What the columns are called elsewhere, lower case, first found first taken. MOS_zscore is the 0-100 target in KonIQ's
# own koniq10k_scores_and_distributions.csv, whose plain MOS is the mean rating.
NAMES = {
    "image": ("image", "image_name", "img_name", "filename"),
    "mos": ("mos_zscore", "mos"),
    "split": ("split", "set"),
    "std": ("std", "sd"),
}
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_labels(path: str | Path, root: str | Path | None = None) -> Dataset:
    """Read labels of any layout known here: a manifest, either KonIQ-10k table, or the list koniq-10k.txt.

    Args:
        path: The label file.
        root: The folder that images are relative to; by default that of the label file (or 1024x768/ in it, for
            KonIQ-10k).

    Returns:
        The labelled images, in the order of the file. No image is opened or looked for.

    Raises:
        MusiqError: The file cannot be read or is none of these; names the row.
    """
    path, root = Path(path), None if root is None else Path(root)
    first = next((line for line in decoded_text(path).splitlines() if line.strip()), "").split("\t")
    return _read_list(path, root) if len(first) == 3 and number_in(first[2]) is not None else read_manifest(path, root)


def read_manifest(path: str | Path, root: str | Path | None = None) -> Dataset:
    """Read a CSV with the columns image,mos[,split][,std][,c1..cK] and any more.

    c1..cK are the shares (or counts) of the ratings 1..K. See `read_table` for what a CSV may be.

    Args:
        path: The file.
        root: The folder that images are relative to; by default that of the file.

    Returns:
        The labelled images, in the order of the file.

    Raises:
        MusiqError: A column is missing or there twice, a row has more or fewer cells than the header, a value is none, or
            an image is named twice; names the row.
    """
    path, root = Path(path), None if root is None else Path(root)
    table = read_table(path)
    columns = _columns(path, table.columns)
    koniq = "c_total" in columns.others
    folder = _koniq_images(root or path.parent) if koniq else root or path.parent
    items: dict[str, Labelled] = {}
    for row in table.rows:
        item = _labelled(row, columns, folder)
        other = items.setdefault(os.path.normpath(item.path), item)
        if other is not item:
            also = "" if other.image == item.image else f", also as {other.image}"
            raise MusiqError(f"{row.where}: {item.image} is there twice{also}; keep one row for an image.")
    if not items:
        raise MusiqError(f"{path} has no row below its header; expected one for each image.")
    if koniq:
        # The 0-100 labels are rescaled for each rater; plain means of the ratings 1-5 go by the same name elsewhere.
        rating = max(item.mos for item in items.values()) <= 5
        target, limits = (KONIQ_RATING, (1.0, 5.0)) if rating else (KONIQ_MOS, (0.0, 100.0))
        return Dataset(tuple(items.values()), folder, target, limits)
    return Dataset(tuple(items.values()), folder, f"mos of {path.resolve().parent.name}/{path.name}")


def with_split(dataset: Dataset, path: Path) -> Dataset:
    """The same images in the splits that a file gives them, whatever splits they had.

    Args:
        dataset: Labelled images.
        path: A CSV with the columns image,split. It names an image as the labels do, or without the suffix: releases of
            one dataset differ in those. Rows of other images do not matter.

    Raises:
        MusiqError: The file cannot be read or lacks a column, a split is none, or an image is named twice or not at all.
    """
    table = read_table(path)
    lower = {name.lower(): name for name in reversed(table.columns)}
    image, split = (next((lower[name] for name in NAMES[key] if name in lower), None) for key in ("image", "split"))
    if image is None or split is None:
        raise MusiqError(f"{path} has the columns {', '.join(table.columns) or '(none)'}; needed are image,split.")
    splits: dict[str, str] = {}
    for row in table.rows:
        name = row.cells[image].strip()
        if name in splits:
            raise MusiqError(f"{row.where}: {name} is there twice; keep one row for an image.")
        splits[name] = _split_in(row, split)
        if not splits[name]:
            raise MusiqError(f"{row.where}: {name} has no split; expected train, val or test.")
    found = [splits.get(item.image) or splits.get(os.path.splitext(item.image)[0]) for item in dataset.items]
    if lacking := [item.image for item, name in zip(dataset.items, found, strict=True) if not name]:
        raise MusiqError(
            f"{path} puts {len(lacking)} of {len(found)} images into no split, {lacking[0]} first; give each a row "
            "image,split."
        )
    items = (dataclasses.replace(item, split=name or "") for item, name in zip(dataset.items, found, strict=True))
    return dataclasses.replace(dataset, items=tuple(items))


def _read_list(path: Path, root: Path | None) -> Dataset:
    """koniq-10k.txt: scene, image, mean rating 1-5, tab separated. Has no split: 80/20, validation out of the 80."""
    folder = _koniq_images(root or path.parent)
    items = []
    for number, line in enumerate(decoded_text(path).splitlines(), 1):
        parts = line.strip().split("\t")
        if not any(parts):
            continue
        mos = number_in(parts[-1])
        if len(parts) != 3 or mos is None:
            raise MusiqError(f"{path}, row {number}: {line!r} is not scene, image and score with tabs between.")
        items.append(Labelled(parts[1], folder / local_name(parts[1]), mos, extra={"scene": parts[0]}))
    return Dataset(tuple(items), folder, KONIQ_RATING, (1.0, 5.0), portions=(0.72, 0.08, 0.2))


def _koniq_images(root: Path) -> Path:
    return root / KONIQ_FOLDER if (root / KONIQ_FOLDER).is_dir() else root


@dataclass(frozen=True)
class _Columns:
    image: str
    mos: str
    split: str | None
    std: str | None
    shares: list[str]
    others: list[str]


def _columns(path: Path, names: list[str]) -> _Columns:
    lower = {name.lower(): name for name in reversed(names)}
    known = {key: next((lower[name] for name in there if name in lower), None) for key, there in NAMES.items()}
    if known["image"] is None and known["mos"] is None and any(number_in(name) is not None for name in names):
        raise MusiqError(
            f"{path} has no header: its first row is {','.join(names)}. Put a row image,mos[,split][,c1..cK] above it."
        )
    if known["image"] is None or known["mos"] is None:
        raise MusiqError(
            f"{path} has the columns {', '.join(names) or '(none)'}; needed are image,mos[,split][,c1..cK]."
        )
    rated = sorted((name for name in lower if re.fullmatch(r"c\d+", name)), key=lambda name: int(name[1:]))
    if rated != [f"c{i + 1}" for i in range(len(rated))]:
        raise MusiqError(f"{path} has the share columns {', '.join(rated)}; expected c1, c2 and so on without a gap.")
    read = {name.lower() for name in known.values() if name} | set(rated)
    if twice := [name for name, count in Counter(name.lower() for name in names).items() if count > 1 and name in read]:
        raise MusiqError(f"{path} has the column {twice[0]} twice; keep the one that is meant.")
    shares = [lower[name] for name in rated]
    taken = {*known.values(), *shares}
    others = [name for name in names if name not in taken]
    return _Columns(known["image"], known["mos"], known["split"], known["std"], shares, others)


def _labelled(row: Row, columns: _Columns, folder: Path) -> Labelled:
    image = row.cells[columns.image].strip()
    if not image:
        raise MusiqError(f"{row.where}: no image is named in the column {columns.image}.")
    split = _split_in(row, columns.split) if columns.split else ""
    shares = [row.number(column) for column in columns.shares]
    if shares and (min(shares) < 0 or sum(shares) <= 0):
        raise MusiqError(f"{row.where}: the shares {shares} are none; expected numbers from 0 on, not all 0.")
    std = row.number(columns.std) if columns.std and row.cells[columns.std].strip() else None
    if std is not None and std < 0:
        raise MusiqError(f"{row.where}: {columns.std} is {std:g}; expected a standard deviation from 0 on.")
    return Labelled(
        image,
        folder / local_name(image),
        row.number(columns.mos),
        split,
        std,
        tuple(share / sum(shares) for share in shares) or None,
        {name: row.cells[name] for name in columns.others},
    )


def _split_in(row: Row, column: str) -> str:
    """The split that a cell names, "" for an empty one. Raises MusiqError for one that is none."""
    text = row.cells[column].strip().lower()
    if text and text not in SPLIT_NAMES:
        raise MusiqError(f"{row.where}: the split is {text!r}; expected train, val or test.")
    return SPLIT_NAMES.get(text, "")


def write_manifest(dataset: Dataset, path: Path) -> None:
    """Write a dataset as a CSV that `read_manifest(path, dataset.root)` reads back equal, splits included.

    Args:
        dataset: Images that all have the same extra columns, and shares of as many ratings or none.
        path: The file to write; its folder is made.

    Raises:
        MusiqError: The file cannot be written.
    """
    ratings = len(dataset.items[0].shares or ())
    extra = list(dataset.items[0].extra)
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mos", "split", "std", *(f"c{k + 1}" for k in range(ratings)), *extra])
        for item in dataset.items:
            std = "" if item.std is None else item.std
            writer.writerow([item.image, item.mos, item.split, std, *(item.shares or ()), *item.extra.values()])
