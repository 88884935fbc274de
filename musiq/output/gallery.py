"""The page of `musiq-score --gallery`: images sorted by score, in one file that loads nothing else.

Rows stand in it as JSON, of which its script makes text and never markup, and its own policy forbids requests and any
script but that one. Thumbnails stand behind in a `<template>`, where a browser neither lays out nor decodes any before it
comes into view.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.resources import files
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from musiq.errors import MusiqError
from musiq.files import atomic_write, local_name, special_kind
from musiq.images.header import is_image
from musiq.images.opencv import one_opencv_thread
from musiq.scoring import Row, ScorerOptions
from musiq.scoring.row import FRAME_COLUMNS, VIDEO_COLUMNS
from musiq.scoring.thumbnails import thumbnail_of
from musiq.spec import Spec

ENDINGS = (".html", ".htm")

AHEAD = 256
"""Thumbnails of rows from before that are made at once: some MB."""


class Gallery:
    """Gathers rows with their thumbnails, and makes a page of them.

    Memory holds the rows. Thumbnails wait in a file without a name in the page's folder. A context manager; left without
    `finish`, nothing is left of it.
    """

    def __init__(self, path: Path, spec: Spec, models: Sequence[str], settings: Mapping[str, str]) -> None:
        """Begin a page.

        Args:
            path: The page to make, .html or .htm.
            spec: Of the model: what its scores mean.
            models: What rows call the models of the run.
            settings: How images were scored, for people to read: {"--resize": "native"}.

        Raises:
            MusiqError: There cannot be such a page.
        """
        check_page(path)
        self.path = path
        self._facts = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "target": spec.target,
            "range": spec.score_range,
            "models": list(models),
            "settings": dict(settings),
        }
        self._rows: list[Row] = []
        self._ends = [0]  # of each row's thumbnail among those that wait
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._thumbnails = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *exception: Any) -> None:
        with suppress(OSError):  # of a full disk, which was told when it was written
            self._thumbnails.close()

    def add(self, row: Row) -> None:
        """Take a row, as files have it, and its thumbnail."""
        with self._writing():
            self._thumbnails.write(row.thumbnail)
        self._rows.append(replace(row, thumbnail=b""))
        self._ends.append(self._ends[-1] + len(row.thumbnail))

    def add_again(self, rows: Iterable[Row], options: ScorerOptions, workers: int, seen: Callable[[], None]) -> None:
        """Take rows of an earlier run, whose thumbnails are made anew from the images, as far as these are there.

        Args:
            rows: As files have them.
            options: How images are decoded.
            workers: Threads that do.
            seen: Called after each row.
        """
        remaining = iter(rows)
        make = partial(thumbnail_of, max_pixels=options.max_pixels, background=options.background)
        with one_opencv_thread(), ThreadPoolExecutor(workers, thread_name_prefix="musiq-thumbnail") as pool:
            while some := list(islice(remaining, AHEAD)):
                for row, small in zip(some, pool.map(make, some), strict=True):
                    self.add(replace(row, thumbnail=small))
                    seen()

    def finish(self) -> None:
        """Write the page, whole or not at all. Raises MusiqError where that is not possible."""
        order = sorted(range(len(self._rows)), key=self._rank)
        with self._writing(), atomic_write(self.path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
            before, after = self._page([self._entry(place) for place in order]).split(THUMBNAILS)
            file.write(before)
            for place in order:
                file.write(f"<p>{base64.b64encode(self._thumbnail(place)).decode()}</p>\n")
            file.write(after)

    def _rank(self, place: int) -> float:
        """Best first; those without a score last, as they came."""
        score = self._rows[place].score
        return float("inf") if score is None else -score

    def _entry(self, place: int) -> list[Any]:
        """A row, in the order in which gallery.js takes it apart."""
        row = self._rows[place]
        models: Any = self._facts["models"]
        model = models.index(row.model) if row.model in models else -1
        score = None if row.score is None else float(f"{row.score:.9g}")
        shares = [round(share, 4) for share in row.shares or ()]
        texts = [row.path, score, row.size, row.fitted, row.error]
        video = {
            name: getattr(row, name) for name in (*VIDEO_COLUMNS, *FRAME_COLUMNS) if getattr(row, name) is not None
        }
        return [*texts, model, place, link(row.path, self.path), shares, video]

    def _thumbnail(self, place: int) -> bytes:
        self._thumbnails.seek(self._ends[place])
        return self._thumbnails.read(self._ends[place + 1] - self._ends[place])

    def _page(self, entries: list[list[Any]]) -> str:
        script = _packaged("gallery.js")
        # In ASCII, so that a name may hold what it likes, also what is no UTF-8; and no "<" ends the element.
        data = json.dumps({**self._facts, "images": entries}, separators=(",", ":")).replace("<", "\\u003c")
        return Template(_packaged("gallery.html")).substitute(
            style=_packaged("gallery.css"),
            script=script,
            digest=base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode(),
            data=data,
            thumbnails=THUMBNAILS,
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise MusiqError(
                f"Cannot write {self.path}: {problem.strerror or problem}. Give --gallery a place with room and write "
                "access."
            ) from problem


THUMBNAILS = "<!-- thumbnails -->"
"""Where they go in the page. No text of a row can be that, as its "<" is written otherwise."""


def check_page(path: Path) -> None:
    """Raise MusiqError for a name that is no page's."""
    if path.suffix.lower() not in ENDINGS:
        raise MusiqError(f"--gallery makes a page, and {path} does not end like one: name it {path.stem}.html.")
    if kind := special_kind(path):
        raise MusiqError(f"Cannot write {path}: it is {kind}. Give the name of a file.")
    if is_image(path):
        raise MusiqError(f"Cannot write {path}: it is an image, which the page would replace. Give another --gallery.")


def link(name: str, page: Path) -> str:
    """Where a page finds an image by its row's name: an address relative to the page's folder; "" for what has none."""
    if "://" in name:
        return name if name.startswith(("http://", "https://")) else ""
    try:
        relative = os.path.relpath(local_name(name), page.parent)
    except ValueError:  # on another drive of Windows
        return ""
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _packaged(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
