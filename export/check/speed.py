"""Is int8 worth it: its time beside that of fp32, in the same runtime, on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from musiq import artifact, files
from musiq.artifact import Record
from musiq.errors import MusiqError
from musiq.runtimes.base import Runtime
from musiq.runtimes.registry import open_runtime

from ..request import Request

if TYPE_CHECKING:
    from ..request import Format

ROUNDS, SECONDS = 31, 60.0  # at most so many of each, and no new round after so long
clock = time.perf_counter


def timed(
    format: Format,
    request: Request,
    record: Record,
    path: Path,
    images: NDArray[np.uint8],
    say: Callable[[str], None],
) -> Record:
    """The record of the artifact `path` with its speed beside that of the same model in fp32.

    Raises MusiqError if it is slower, unless the request's options say `force`.
    """
    int8_s, fp32_s = _latencies(format, request, record, path, images)
    ratio, size = fp32_s / int8_s, max(1, request.batch.smallest)
    say(
        f"{'[✓]' if ratio >= 1 else '[✗]'} {ratio:.2f} times the speed of fp32: {1e3 * int8_s:.1f} against "
        f"{1e3 * fp32_s:.1f} ms, batch {size}"
    )
    if ratio < 1 and not request.options.get("force"):
        raise MusiqError(
            f"{path.name} is slower than fp32 on this machine ({ratio:.2f} times its speed), so it was not kept. Take "
            "fp32, or give --force to keep it for another machine."
        )
    latencies = {"int8_ms": round(1e3 * int8_s, 3), "fp32_ms": round(1e3 * fp32_s, 3), "batch": size}
    speed = {**latencies, "times_fp32": round(ratio, 3), "forced": ratio < 1}
    return replace(record, details={**record.details, "speed": speed})


def _latencies(
    format: Format, request: Request, record: Record, path: Path, images: NDArray[np.uint8]
) -> tuple[float, float]:
    """Median seconds of `path`, and of the same model in fp32 and the same format, built for this comparison alone."""
    device = record.details.get("device", "auto")
    with tempfile.TemporaryDirectory(prefix=".fp32-", dir=path.parent) as folder:
        plain = Path(folder) / path.name
        built = format.build(replace(request, precision="fp32"), plain)
        hashes = {file.suffix: files.sha256(file) for file in built.files}
        twin = replace(record, precision="fp32", sha256=files.sha256(plain), files=hashes, details=built.details)
        artifact.write_record(plain, twin)
        runtimes = open_runtime(path, device), open_runtime(plain, device)
        try:
            return medians(*runtimes, images[: max(1, request.batch.smallest)])
        finally:
            for runtime in runtimes:
                runtime.close()


def medians(one: Runtime, other: Runtime, images: NDArray[np.uint8]) -> tuple[float, float]:
    """Median seconds of each, taken in turns so that whatever else the machine does slows both."""
    for runtime in (one, other):
        runtime(images)  # the first call allocates
    taken: tuple[list[float], list[float]] = ([], [])
    deadline = time.monotonic() + SECONDS
    while len(taken[0]) < ROUNDS and (len(taken[0]) < 3 or time.monotonic() < deadline):
        for runtime, times in zip((one, other), taken, strict=True):
            started = clock()
            runtime(images)
            times.append(clock() - started)
    return float(np.median(taken[0])), float(np.median(taken[1]))
