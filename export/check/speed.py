"""Is int8 worth it: its time beside that of fp32, in the same runtime, on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from musiq import artifact, files
from musiq.artifact import Record, Speed
from musiq.errors import RefusedError
from musiq.runtimes.registry import open_runtime
from musiq.spec import USUAL_SIZE
from musiq.timing import in_turns

from ..request import Format, Images, Request

ROUNDS, SECONDS = 31, 60.0  # at most so many of each, and no new round after so long


def compare_speed(
    format: Format,
    request: Request,
    record: Record,
    path: Path,
    images: Sequence[Images],
    say: Callable[[str], None],
) -> Record:
    """The record of the artifact `path` with its speed beside that of the same model in fp32, on one of the images
    (H, W, 3): that of the most usual size.

    Raises RefusedError if it is slower, unless `Int8Options.force`.
    """
    size = max(1, request.batch.smallest)
    image = min(images, key=lambda each: abs(each[..., 0].size - prod(USUAL_SIZE)))
    int8_s, fp32_s = _latencies(format, request, record, path, np.stack([image] * size))
    ratio = fp32_s / int8_s
    say(
        f"{'[✓]' if ratio >= 1 else '[✗]'} {ratio:.2f} times the speed of fp32: {1e3 * int8_s:.1f} against "
        f"{1e3 * fp32_s:.1f} ms, batch {size}{_size_of(image, request)}"
    )
    if ratio < 1 and not (request.int8 and request.int8.force):
        raise RefusedError(
            f"{path.name} is slower than fp32 on this machine ({ratio:.2f} times its speed), so it was not kept. Take "
            "fp32, or give --force to keep it for another machine."
        )
    speed = Speed(round(1e3 * int8_s, 3), round(1e3 * fp32_s, 3), size, round(ratio, 3), forced=ratio < 1)
    return replace(record, details=replace(record.details, speed=speed))


def _size_of(image: Images, request: Request) -> str:
    return f", {image.shape[1]}x{image.shape[0]}" if request.model.spec.any_size else ""


def _latencies(format: Format, request: Request, record: Record, path: Path, batch: Images) -> tuple[float, float]:
    """Median seconds of `path`, and of the same model in fp32 and the same format, built for this comparison alone."""
    with tempfile.TemporaryDirectory(prefix=".fp32-", dir=path.parent) as folder:
        plain = Path(folder) / path.name
        built = format.build(replace(request, precision="fp32"), plain)
        hashes = {file.suffix: files.sha256(file) for file in built.files}
        twin = replace(record, precision="fp32", sha256=files.sha256(plain), files=hashes, details=built.details)
        artifact.write_record(plain, twin)
        runtimes = open_runtime(path), open_runtime(plain)
        try:
            calls = [partial(runtime, batch) for runtime in runtimes]
            int8_s, fp32_s = in_turns(calls, ROUNDS, warmup=1, limit_s=SECONDS)  # a first call allocates
            return float(np.median(int8_s)), float(np.median(fp32_s))
        finally:
            for runtime in runtimes:
                runtime.close()
