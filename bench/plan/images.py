"""The images and labels of a run: found, decoded once for each size that a model takes (or at their own, for one that
takes any), the broken ones left out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musiq.datasets.dataset import Dataset
from musiq.datasets.label_files import read_labels
from musiq.datasets.public import DATASETS, read_named
from musiq.datasets.public_readers import LacksError
from musiq.errors import ImageError, MusiqError
from musiq.hardware import available_cpus
from musiq.images.decode import prepare
from musiq.images.find import evenly, find_images
from musiq.images.fit import Image
from musiq.images.opencv import without_decoder_noise
from musiq.scoring.plan import MAX_TOKENS
from musiq.spec import PATCH

from .job import DecodedFiles, Opened

CHUNK = 16  # images decoded ahead: bounds memory, where they have a model's size

Seen = tuple[int | None, int | None, str]
"""What a model sees: height and width, both None where the policy after them says what sizes images get."""

SMALLEST_CLASS = 1 / 16
"""Megapixels below which all images are one class."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Labels:
    """The labels of one split, "all" for every one, out of the file or folder `source`."""

    dataset: Dataset
    split: str
    source: Path

    @classmethod
    def read(cls, source: Path | str, split: str | None) -> Labels:
        """The labels of `split`; by default the test images where there are any, since a model has not seen those.

        `source` is a label file, or the folder of a public dataset as its authors publish it, also as NAME=FOLDER. Raises
        MusiqError for what is neither, and a split without images.
        """
        return cls.of_split(*_read(source), split)

    @classmethod
    def of_split(cls, path: Path, dataset: Dataset, split: str | None) -> Labels:
        split = split or ("test" if dataset.split("test") else "all")
        if split != "all":
            dataset = dataclasses.replace(dataset, items=tuple(dataset.split(split)))
        if not dataset.items:
            raise MusiqError(f"{path} has no image in the split {split}; give another --split, or all.")
        return cls(dataset, split, path)

    def of(self, files: Sequence[Path]) -> list[float | None]:
        return [None if item is None else item.mos for item in self.dataset.match(files)]

    def files(self) -> list[Path]:
        """The labelled images that are there."""
        return sorted(item.path for item in self.dataset.items if item.path.is_file())

    def describe(self, n: int) -> dict[str, Any]:
        return {"source": str(self.source), "target": self.dataset.target, "split": self.split, "n": n}


def _read(source: Path | str) -> tuple[Path, Dataset]:
    name, _, folder = str(source).partition("=")
    if folder and name in DATASETS:
        return Path(folder), read_named(name, Path(folder))
    path = Path(source)
    if not path.is_dir():
        return path, read_labels(path)
    dataset = known_dataset(path)
    if dataset is None:
        raise MusiqError(
            f"{path} is no dataset that is known here ({', '.join(DATASETS)}, as their authors publish them). Give the "
            "label file, a CSV with the columns image,mos."
        )
    return path, dataset


def known_dataset(folder: Path) -> Dataset | None:
    """The public dataset that lies in `folder`, None where none does. Raises MusiqError for one that is broken."""
    for name in DATASETS:
        try:
            return read_named(name, folder)
        except MusiqError as problem:
            if not isinstance(problem.__cause__, LacksError):
                raise
    return None


def find_labels(images: Sequence[Path], source: str | None, split: str | None) -> Labels | None:
    """The labels asked for; without any, those of the public dataset whose folder is all of `images`."""
    if source is not None:
        return Labels.read(source, split)
    dataset = known_dataset(images[0]) if len(images) == 1 and images[0].is_dir() else None
    return None if dataset is None else Labels.of_split(images[0], dataset, split)


@dataclass
class ImageSet:
    """Images in a fixed order, every model gets the same; `broken` are (path, why), found while decoding;
    `fitted` is how many were resized or cropped for a model, `unlabelled` how many were left out for want of a label."""

    files: list[Path]
    found: int
    scratch: Path
    broken: list[tuple[Path, str]] = field(default_factory=list)
    fitted: int = 0
    unlabelled: int = 0
    _decoded: dict[Seen, Path] = field(default_factory=dict)
    _sizes: dict[Seen, list[tuple[int, int]]] = field(default_factory=dict)

    def decoded(
        self,
        height: int | None,
        width: int | None,
        resize: str = "",
        progress: Progress = lambda done, of: None,
    ) -> Path:
        """A file of raw uint8 (len(self.files), height, width, 3), or of one (h, w, 3) after the other where images have
        the size that the policy `resize` gives them; the first call takes broken images out of `files`.

        Raises MusiqError where no image can be decoded, or the disk is full.
        """
        seen = height, width, resize
        if seen not in self._decoded:
            raw = self.scratch / (f"{width}x{height}.u8" if height else f"{resize}.u8")
            try:
                with without_decoder_noise():
                    self._write(raw, seen, progress)
            except OSError as problem:
                need = f"; they need {len(self.files) * height * width * 3 / 2**30:.1f} GiB" if height and width else ""
                raise MusiqError(
                    f"Cannot keep the decoded images in {self.scratch} ({problem.strerror}){need}. Set TMPDIR to a folder "
                    "with room, or give a smaller --max-images."
                ) from problem
            self._decoded[seen] = raw
        return self._decoded[seen]

    def for_model(self, opened: Opened, progress: Progress) -> DecodedFiles:
        """The images as an opened model takes them."""
        raw = self.decoded(opened.height, opened.width, opened.resize, progress)
        sizes = None if opened.height else self._sizes[None, None, opened.resize]
        return DecodedFiles(str(raw), [str(file.absolute()) for file in self.files], sizes)

    def describe(self, folders: Sequence[Path]) -> dict[str, Any]:
        """What the report says of them."""
        return {
            "folders": [str(folder) for folder in folders],
            "found": self.found,
            "used": len(self.files),
            "fitted": self.fitted,
            "unlabelled": self.unlabelled,
            "broken": [{"path": str(path), "reason": reason} for path, reason in self.broken],
        }

    def _write(self, raw: Path, seen: Seen, progress: Progress) -> None:
        readable, broken, fitted, sizes = [], [], 0, []
        with raw.open("wb") as file:
            for path, image, how in decode_all(self.files, *seen):
                if image is None:
                    broken.append((path, how))
                else:
                    file.write(image.tobytes())
                    readable.append(path)
                    fitted += bool(how)
                    sizes.append((image.shape[0], image.shape[1]))
                progress(len(readable) + len(broken), len(self.files))
        if broken and self._decoded:
            raise MusiqError(
                f"{broken[0][0]} could be scored by other models, and cannot by this one ({broken[0][1]}): leave it out of "
                "--images, and the images alone meanwhile."
            )
        if not readable:
            raise MusiqError(f"None of {len(broken)} images can be read; the first, {broken[0][0]}: {broken[0][1]}")
        self.files, self.fitted, self._sizes[seen] = readable, max(fitted, self.fitted), sizes
        self.broken += broken


def decode_all(
    files: Sequence[Path], height: int | None, width: int | None, resize: str = ""
) -> Generator[tuple[Path, Image | None, str], None, None]:
    """Each file's (path, image, how it was fitted or resized), or (path, None, why it cannot be read or scored)."""

    def one(path: Path) -> tuple[Path, Image | None, str]:
        try:
            image, how = prepare(path, height, width, resize=resize or "native")
            return (path, image, how) if height else _checked(path, image, how)
        except ImageError as problem:
            return path, None, str(problem)

    threads = available_cpus()
    chunk = CHUNK if height else threads  # images at their own size may be large
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), chunk):
            yield from pool.map(one, files[start : start + chunk])


def _checked(path: Path, image: Image, how: str) -> tuple[Path, Image | None, str]:
    """An image for a model of any size, unless it has more patches than are scored by default."""
    patches = math.prod(-(-side // PATCH) for side in image.shape[:2])
    if patches <= MAX_TOKENS:
        return path, image, how
    size = f"{image.shape[1]}x{image.shape[0]}"
    return (
        path,
        None,
        f"It has {patches:,} patches at {size}; models of any size are measured with {MAX_TOKENS:,} at most.",
    )


def size_class(height: int, width: int) -> str:
    """The megapixels between two powers of two that an image has, such as "0.25-0.5 MP": few classes, in each of which
    images cost a model of any size about as much."""
    low = 2.0 ** math.floor(math.log2(height * width / 1e6))
    return f"{low:g}-{2 * low:g} MP" if low >= SMALLEST_CLASS else f"up to {SMALLEST_CLASS:g} MP"


def choose(folders: Sequence[Path], labels: Labels | None, at_most: int, scratch: Path) -> ImageSet:
    """Choose the images of a run.

    Args:
        folders: Folders of images, or images.
        labels: With them only images that have one are chosen.
        at_most: How many, evenly spread over all; 0 for all.
        scratch: Where they are kept once decoded.

    Returns:
        The images, none of them decoded yet.

    Raises:
        MusiqError: A folder is missing, or no image is left.
    """
    missing = [str(folder) for folder in folders if not folder.exists()]
    if missing:
        raise MusiqError(f"There is no {missing[0]}; give a folder of images with --images.")
    own = labels is not None and list(folders) == [labels.source]  # a dataset's folder may hold its images twice
    files = labels.files() if labels is not None and own else list(find_images(folders))
    found = len(files)
    if labels is not None:
        files = [file for file, label in zip(files, labels.of(files), strict=True) if label is not None]
        if not files:
            raise MusiqError(
                f"None of the {found} images in {', '.join(map(str, folders))} has a label in {labels.source} (split: "
                f"{labels.split}). Check --images, --labels and --split."
            )
    return ImageSet(evenly(files, at_most), found, scratch, unlabelled=found - len(files))
