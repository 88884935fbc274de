"""The real images that an int8 model is calibrated on, and what was measured with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musiq.errors import ImageError, MusiqError
from musiq.images.decode import decode
from musiq.images.find import find_images
from musiq.images.fit import fit

from ..request import Request

# Fewer than 16 leave no part to measure on; from 64 on, the ranges that the activations reach hardly grow; beyond 512 only
# the time does.
FEWEST, ENOUGH, MOST = 16, 64, 512
HELD_OUT = 24  # at most so many for the sensitivity pass, which scores them once for every group of layers

Images = NDArray[np.uint8]


@dataclass
class Calibration:
    """`images` are uint8 (N, H, W, 3), `names` their N paths below the folder. `plans` keeps what was measured for a
    graph, so that several formats of one export share the minutes it takes."""

    names: list[str]
    images: Images
    plans: dict[Any, Any] = field(default_factory=dict)

    def split(self) -> tuple[list[int], list[int]]:
        """Indices of the images that set the ranges, and of those held out to measure what that costs."""
        count = min(HELD_OUT, 3 * len(self.names) // 8)
        held = {int(i * len(self.names) / count) for i in range(count)}
        return [i for i in range(len(self.names)) if i not in held], sorted(held)


def read(folder: Path, height: int, width: int, warn: Callable[[str], None]) -> Calibration:
    """Up to 512 images of a folder, evenly spread over its sorted files, fitted; broken ones are passed over.

    Says so to `warn` for fewer than 64; raises MusiqError for fewer than 16.
    """
    files = find_images([folder])
    step = max(1.0, len(files) / MOST)
    names, images = [], []
    with progress("reading calibration images", min(len(files), MOST)) as advance:
        for file in (files[int(i * step)] for i in range(min(len(files), MOST))):
            try:
                images.append(fit(decode(file), height, width)[0])
                names.append(str(Path(file).relative_to(folder)))
            except ImageError:
                pass
            advance()
    if len(names) < FEWEST:
        raise MusiqError(
            f"{folder} has {len(names)} readable images; int8 needs at least {FEWEST} to calibrate on, better {ENOUGH} "
            f"to {MOST}. Give --calibration-images a folder with more images like those to be scored."
        )
    if len(names) < ENOUGH:
        warn(f"{folder} has {len(names)} readable images: int8 is calibrated better on {ENOUGH} to {MOST}.")
    return Calibration(names, np.stack(images))


def of(request: Request) -> Calibration:
    """The calibration that a request brings. Raises MusiqError where it brings none."""
    calibration = request.options.get("calibration")
    if not isinstance(calibration, Calibration):
        raise missing()
    return calibration


def missing() -> MusiqError:
    return MusiqError(
        "int8 needs real images to calibrate on, generated ones are not good enough: give --calibration-images DIR with "
        f"{ENOUGH} to {MOST} images like those to be scored."
    )


def in_batches(request: Request, images: Images) -> Iterator[Images]:
    """One image at a time, or as few as the graph of `request` takes."""
    size = max(1, request.batch.smallest)
    return (images[start : start + size] for start in range(0, len(images), size))


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar with the time left on stderr, where stderr is a terminal; call what it yields after each step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
