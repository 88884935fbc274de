"""Readers of the public datasets' label files, one for each dataset, as its authors publish it.

The layouts are those of the packages at each dataset's home in `musiq.datasets.public`. A reader takes the dataset's
folder and gives items whose images lie at `root / image`; it raises LacksError for what is not there, MusiqError
naming the row for what cannot be read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from musiq.datasets.dataset import Dataset, Labelled, rating_mean_std
from musiq.datasets.label_files import read_labels
from musiq.datasets.table import Row, decoded_text, read_table
from musiq.errors import MusiqError, pip_install

DRAWN = (0.72, 0.08, 0.2)
"""Train, val and test where the authors give no split: 80/20 is what papers on these datasets use, a tenth of the 80 for
choosing the best epoch."""

SPAQ_TABLES = tuple(
    folder + name + suffix
    for suffix in (".xlsx", ".csv")
    for name in ("MOS and Image attribute scores", "MOS_and_Image_attribute_scores")
    for folder in ("Annotations/", "")
)
BIQ_TABLES = (
    (("Train (Images and MOS).csv", "train"), ("Test (Images and MOS).csv", "test")),
    (("Train.csv", "train"), ("Test.csv", "test")),
)


class LacksError(MusiqError):
    """A dataset's folder lacks a file; `musiq.datasets.public.read_named` adds where to get it."""


def read_koniq(root: Path) -> Dataset:
    """KonIQ-10k (Hosu et al. 2020, arXiv 1910.06180): the table with MOS 0-100, shares and the official split, or, where
    it is not there, the list koniq-10k.txt of mean ratings 1-5."""
    table = _needed(root, "koniq10k_distributions_sets.csv", "koniq-10k.txt")
    if not (root / "1024x768").is_dir():
        raise LacksError(f"{root} has no folder 1024x768/ (koniq10k_1024x768.zip, unpacked)")
    return read_labels(table, root)


def read_spaq(root: Path) -> Dataset:
    """SPAQ (Fang et al., CVPR 2020): MOS 0-100 of 11,125 smartphone photographs, without a split file.

    The table is the authors' .xlsx, or the same saved as .csv. Its further columns are kept.
    """
    table = _needed(root, *SPAQ_TABLES)
    images = _folder(root, "TestImage")
    items = []
    for row in _rows(table):
        image = _value(row, "Image name")
        extra = {key: value.strip() for key, value in row.cells.items() if key not in ("Image name", "MOS")}
        items.append(Labelled(image, images / image, _number(row, "MOS"), extra=extra))
    return Dataset(tuple(items), images, "SPAQ MOS (0-100)", (0.0, 100.0), DRAWN)


def read_ava(root: Path) -> Dataset:
    """AVA (Murray et al., CVPR 2012): counts of the ratings 1-10; the label is their mean.

    AVA.txt, as its README says: index, image id, counts of the ratings 1..10, two tags, challenge. Test is the authors'
    list generic_test.jpgl, and train all the rest, which is how 235,599 and 19,930 images come about.
    """
    table = _needed(root, "AVA.txt")
    listed = _needed(root, "aesthetics_image_lists/generic_test.jpgl", "generic_test.jpgl")
    test = set(decoded_text(listed).split())
    images = _folder(root, "images", "image")
    items = []
    for number, line in enumerate(decoded_text(table).splitlines(), 1):
        fields = line.split()
        if len(fields) != 15 or not all(field.isdigit() for field in fields) or not any(map(int, fields[2:12])):
            raise MusiqError(f"{table}, row {number}: {line!r} is not index, id, ten counts, two tags and challenge.")
        shares, mean, std = _rating_statistics([int(field) for field in fields[2:12]])
        image, extra = f"{fields[1]}.jpg", {"tags": " ".join(fields[12:14]), "challenge": fields[14]}
        split = "test" if fields[1] in test else "train"
        items.append(Labelled(image, images / image, mean, split, std, shares, extra))
    return Dataset(tuple(items), images, "AVA mean rating (1-10)", (1.0, 10.0))


def read_paq2piq(root: Path) -> Dataset:
    """PaQ-2-PiQ, also called FLIVE (Ying et al., CVPR 2020): MOS 0-100 of whole images; patches are left out.

    labels_image.csv (name, mos) names no split, so one is drawn; it is not the authors' own validation set.
    """
    table = _needed(root, "labels_image.csv", "database/labels_image.csv")
    images = _folder(root, "database", "images")
    items = []
    for row in _rows(table):
        image = _value(row, "name")
        items.append(Labelled(image, images / image, _number(row, "mos")))
    return Dataset(tuple(items), images, "PaQ-2-PiQ MOS (0-100)", (0.0, 100.0), DRAWN)


def read_clive(root: Path) -> Dataset:
    """CLIVE, the LIVE In the Wild Image Quality Challenge Database (Ghadiyaram & Bovik 2016): MOS 0-100 and deviation of
    1,162 images.

    Three MATLAB files in one order, of 1,169 rows; the images t1..t7 of Images/trainingImages, on which raters
    practised, are the first seven and are left out as the authors say.
    """
    base = root / "ChallengeDB_release" if (root / "ChallengeDB_release").is_dir() else root
    names, scores, deviations = (
        _matlab(_needed(base, f"Data/{key}.mat", f"{key}.mat"), key)
        for key in ("AllImages_release", "AllMOS_release", "AllStdDev_release")
    )
    if not len(names) == len(scores) == len(deviations):
        raise MusiqError(
            f"{base} has {len(names)} names, {len(scores)} scores and {len(deviations)} deviations; expected as many of "
            "each. Download them again."
        )
    images = _folder(base, "Images")
    items = [
        Labelled(str(name), images / str(name), float(mos), std=float(std))
        for name, mos, std in zip(names, scores, deviations, strict=True)
        if not re.fullmatch(r"t\d+\.\w+", str(name))
    ]
    return Dataset(tuple(items), images, "LIVE In the Wild MOS (0-100)", (0.0, 100.0), DRAWN)


def read_kadid(root: Path) -> Dataset:
    """KADID-10k (Lin et al., QoMEX 2019): 81 references, 125 distortions of each, scores 1-5, higher is better although
    the column is called dmos. Splits keep a reference's images together; `var` is kept as it is."""
    base = root / "kadid10k" if (root / "kadid10k").is_dir() else root
    table = _needed(base, "dmos.csv")
    images = _folder(base, "images")
    items = []
    for row in _rows(table):
        image = _value(row, "dist_img")
        extra = {"reference": _value(row, "ref_img"), "var": row.cells.get("var", "").strip()}
        items.append(Labelled(image, images / image, _number(row, "dmos"), extra=extra))
    return Dataset(tuple(items), images, "KADID-10k DMOS (1-5, higher is better)", (1.0, 5.0), DRAWN)


def read_biq2021(root: Path) -> Dataset:
    """BIQ2021 (Ahmed & Asif 2022): MOS 0-1 with the authors' train and test split.

    Their repository has two pairs of tables, whose scores differ in scale: "Train (Images and MOS).csv", which is
    taken where it is there, and Train.csv; the target names the second.
    """
    tables = next((pair for pair in BIQ_TABLES if all((root / name).is_file() for name, _ in pair)), BIQ_TABLES[0])
    images = _folder(root, "Images")
    items = []
    for name, split in tables:
        for row in _rows(_needed(root, name)):
            image = _value(row, "Image Name")
            items.append(Labelled(image, images / image, _number(row, "MOS"), split))
    if tables == BIQ_TABLES[0]:
        return Dataset(tuple(items), images, "BIQ2021 MOS (0-1)", (0.0, 1.0))
    return Dataset(tuple(items), images, "BIQ2021 MOS of Train.csv and Test.csv")


def _needed(root: Path, *variants: str) -> Path:
    """The first of the `variants` of a file that is there."""
    found = next((root / variant for variant in variants if (root / variant).is_file()), None)
    if found is None:
        raise LacksError(f"{root} has no {' nor '.join(variants[:2])}")
    return found


def _folder(root: Path, *names: str) -> Path:
    """The first of these folders that is there, else `root` itself: packages are unpacked in either way."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def _rows(table: Path) -> list[Row]:
    """The rows below the header of a CSV, or of an .xlsx, whose notes beside the columns are left alone."""
    if table.suffix != ".xlsx":
        return read_table(table).rows
    header, *rows = _sheet(table) or [[]]
    names = [name.strip() for name in header]
    return [
        Row(f"{table}, row {number}", dict(zip(names, cells, strict=False)))
        for number, cells in enumerate(rows, 2)
        if any(cells)
    ]


def _sheet(table: Path) -> list[list[str]]:
    """The first sheet of an .xlsx as text. Raises MusiqError without openpyxl and for what is no such file."""
    try:
        import openpyxl  # type: ignore[import-untyped,unused-ignore]
    except ImportError as problem:
        raise MusiqError(
            f"Reading {table.name} needs openpyxl: {pip_install('train')}, or save it as .csv."
        ) from problem
    try:
        book = openpyxl.load_workbook(table, read_only=True, data_only=True)
        sheet: Any = book.worksheets[0]
        rows = [["" if cell is None else str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
        book.close()
    except Exception as problem:  # zipfile's, XML's and openpyxl's own alike
        raise MusiqError(f"{table} cannot be read as .xlsx ({problem}). Download it again.") from problem
    return rows


def _matlab(path: Path, key: str) -> list[Any]:
    """The variable `key` of a MATLAB file as a flat list; cells are unpacked."""
    try:
        from scipy.io import loadmat
    except ImportError as problem:
        raise MusiqError(f"Reading {path.name} needs scipy: {pip_install('train')}.") from problem
    try:
        values = loadmat(path)[key].ravel().tolist()
    except Exception as problem:  # scipy raises what it meets: ValueError, KeyError, NotImplementedError ...
        raise MusiqError(
            f"{path} cannot be read as a MATLAB file with {key} ({problem}). Download it again."
        ) from problem
    return [value.ravel()[0] if hasattr(value, "ravel") else value for value in values]


def _value(row: Row, column: str) -> str:
    """The text in a column, without spaces around it."""
    if not (found := row.cells.get(column, "").strip()):
        raise MusiqError(f"{row.where}: the column {column} is empty or missing; there are {', '.join(row.cells)}.")
    return found


def _number(row: Row, column: str) -> float:
    _value(row, column)
    return row.number(column)


def _rating_statistics(counts: list[int]) -> tuple[tuple[float, ...], float, float]:
    """Shares, mean and standard deviation of ratings 1..K of which there are so many each."""
    total = sum(counts)
    shares = tuple(count / total for count in counts)
    return shares, *rating_mean_std(shares)
