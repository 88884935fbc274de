"""`Scorer`: images in, scores out, in order; decoding ahead of the model, and no image's trouble is another's."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from musiq.errors import ImageError, MusiqError, is_memory_short
from musiq.hardware import available_cpus
from musiq.images.decode import MAX_PIXELS, Background, JpegDecoder, Source, decoded
from musiq.images.fit import fit
from musiq.images.opencv import one_opencv_thread
from musiq.runtimes.base import MODES, Images, Runtime
from musiq.scoring.model_choice import check_mixture, nearest
from musiq.scoring.prefetch import PATIENCE, InOrder, Ready, batches, map_ahead
from musiq.scoring.row import Row
from musiq.spec import Spec

MAX_WORKERS = 16  # beyond it decoders wait for memory, not for CPUs
SPARE = 2
"""How many times the model's height and width are left of a JPEG that is decoded at a part of its size. With 1 scores of a
trained resnet50 at 224x224 moved by up to 0.13 of a range of 1, with 2 by 0.017, with 4 by 0.004 (12 photographs of 8
megapixels), in 0.34, 0.40 and 0.53 of the time."""

JPEG_DECODERS = ("opencv", "nvimagecodec")

Model = str | Path | Runtime


class Busy:
    """Seconds spent so far decoding (summed over the threads) and in the model, to tell which of them is the bottleneck."""

    def __init__(self) -> None:
        self.decode_s = 0.0
        self.model_s = 0.0
        self._lock = threading.Lock()

    def add(self, decode_s: float = 0.0, model_s: float = 0.0) -> None:
        with self._lock:
            self.decode_s += decode_s
            self.model_s += model_s


class Scorer:
    """Scores images with one artifact, or with a Runtime that is already open; or with several of different shapes.

    Of several models each image goes to the one with the nearest aspect ratio (after its EXIF rotation; a tie to the
    first), so that a portrait need not lose its top and bottom; they must have the same target and outputs.

    `batch_size` images go to a model at once (default: the runtime's `default_batch`); `workers` threads decode ahead
    of it (default: the CPUs that this process may use, 16 at most; OpenCV works outside Python's lock); `threads` are a
    model's own on a CPU (default: the runtime's): all of them for one batch in `mode` "latency"; one each for as many
    batches at once in "throughput", which are by default so much smaller. With `reduced_jpeg` a JPEG is decoded at the
    part of its size that leaves at least SPARE times the model's: faster, and scores change a little. `jpeg_decoder`
    "nvimagecodec" decodes JPEGs with NVIDIA's package, on the GPU of the model where it has one. However many sources
    there are, memory holds one batch more than run at once, one being gathered for each model, and one and an image
    for each worker being decoded.
    Safe to call from several threads where the runtime is. A context manager: leaving it closes the runtimes. Raises
    MusiqError for models that cannot be opened or do not go together.
    """

    def __init__(
        self,
        model: Model | Sequence[Model],
        device: str = "auto",
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        threads: int | None = None,
        mode: str = "latency",
        max_pixels: int = MAX_PIXELS,
        background: Background = "white",
        reduced_jpeg: bool = False,
        jpeg_decoder: str = "opencv",
    ) -> None:
        if mode not in MODES:
            raise MusiqError(f"There is no mode {mode!r}; there are {' and '.join(MODES)}.")
        if (batch_size is not None and batch_size < 1) or (workers is not None and workers < 1):
            raise MusiqError(f"batch_size is {batch_size} and workers {workers}; expected at least 1 of each.")
        if jpeg_decoder not in JPEG_DECODERS:
            raise MusiqError(f"There is no JPEG decoder {jpeg_decoder!r}; there are {' and '.join(JPEG_DECODERS)}.")
        if reduced_jpeg and jpeg_decoder != "opencv":
            raise MusiqError(
                "Only OpenCV decodes JPEGs at a part of their size: leave out reduced_jpeg or jpeg_decoder."
            )
        jpeg = _nvimagecodec(device) if jpeg_decoder == "nvimagecodec" else None
        models = list(model) if isinstance(model, Sequence) and not isinstance(model, str) else [model]
        self.models = [_model_name(each, index) for index, each in enumerate(models)]
        self.runtimes = _open_all(models, device, threads, mode)
        self._specs = [runtime.spec for runtime in self.runtimes]
        self.spec: Spec = self._specs[0]
        self.workers = workers or min(MAX_WORKERS, available_cpus())
        self.in_flight: int = max(runtime.in_flight for runtime in self.runtimes)
        self.batch_size = batch_size or max(runtime.default_batch for runtime in self.runtimes)
        self.busy = Busy()
        self._most = self.batch_size  # that memory has room for, as far as is known
        largest = max(spec.height for spec in self._specs) * SPARE, max(spec.width for spec in self._specs) * SPARE
        self._decoding: dict[str, Any] = {
            "max_pixels": max_pixels,
            "background": background,
            "cover": largest if reduced_jpeg else None,
            "jpeg": jpeg,
        }

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        for runtime in self.runtimes:
            runtime.close()

    def score(self, source: Source) -> float:
        """The score of one image. Raises ImageError for one that cannot be scored."""
        ((_, row),) = self._rows(Batch([self._prepared(0, source)]))
        if row.score is None:
            raise ImageError(row.error)
        return row.score

    def score_many(self, sources: Iterable[Source]) -> Iterator[Row]:
        """A Row for each source, in their order, while later ones are being decoded and scored.

        An image that cannot be read, and one that the model fails on, is a Row with its error. `sources` is read only
        as far ahead as needed, so it may be endless; stopping early stops the threads.
        """
        decoders = ThreadPoolExecutor(self.workers, thread_name_prefix="musiq-decode")
        runners = ThreadPoolExecutor(self.in_flight, thread_name_prefix="musiq-run")
        try:
            with one_opencv_thread():
                ready = map_ahead(decoders, self._decode, sources, self.batch_size + self.workers)
                yield from self._scored(runners, batches(ready, self.batch_size))
        finally:
            decoders.shutdown(wait=True, cancel_futures=True)
            runners.shutdown(wait=True, cancel_futures=True)

    def _scored(self, runners: Executor, groups: Iterable[list[Ready]]) -> Iterator[Row]:
        running: deque[Future[list[tuple[int, Row]]]] = deque()
        rows: InOrder[Row] = InOrder()
        for group in groups:
            if group[0].image is None:
                rows.add(group[0].place, Row(group[0].path, None, error=group[0].error))
            else:
                # Stacked here, so that the model finds its next batch in one piece when it has done with this one.
                running.append(runners.submit(self._rows, Batch(group)))
            del group  # or its images stay until the next ones are there
            while running and (self._enough(running, rows) or running[0].done()):
                _add(rows, running.popleft())
            yield from rows.take()
        while running:
            _add(rows, running.popleft())
            yield from rows.take()

    def _enough(self, running: deque[Future[list[tuple[int, Row]]]], rows: InOrder[Row]) -> bool:
        """Whether to wait for the oldest batch: one waits for the model already, or too many rows wait for theirs."""
        return len(running) > self.in_flight or len(rows) > PATIENCE * self.batch_size

    def _decode(self, place: int, source: Source) -> Ready:
        start = time.perf_counter()
        try:
            return self._prepared(place, source)
        except Exception as problem:
            return Ready(place, _name(source, place), error=_line(problem))
        finally:
            self.busy.add(decode_s=time.perf_counter() - start)

    def _prepared(self, place: int, source: Source) -> Ready:
        with decoded(source, **self._decoding) as (image, reduction):
            model = nearest(self._specs, *image.shape[:2])
            image, fitted = fit(image, self._specs[model].height, self._specs[model].width, reduction)
        return Ready(place, _name(source, place), model, image, fitted)

    def _rows(self, batch: Batch) -> list[tuple[int, Row]]:
        start = time.perf_counter()
        rows = [
            (item.place, Row(item.path, score, item.fitted, error, shares, self.models[item.model]))
            for item, (score, shares, error) in zip(
                batch.items, self._outcomes(self.runtimes[batch.model], batch.images), strict=True
            )
        ]
        self.busy.add(model_s=time.perf_counter() - start)
        return rows

    def _outcomes(self, runtime: Runtime, images: Images) -> list[Outcome]:
        """Score, shares and error of each image. A batch that fails is tried again in halves; where memory was short,
        later ones are not as large any more."""
        if len(images) > self._most:
            pieces = [images[start : start + self._most] for start in range(0, len(images), self._most)]
            return [outcome for piece in pieces for outcome in self._outcomes(runtime, piece)]
        try:
            outputs = runtime.run(images)
        except Exception as problem:
            if len(images) == 1:
                return [(None, None, f"The model failed on this image: {_line(problem)}")]
            half = len(images) // 2
            outcomes = self._outcomes(runtime, images[:half]) + self._outcomes(runtime, images[half:])
            if is_memory_short(problem) and half < self._most and any(not error for _, _, error in outcomes):
                self._most = half
                warnings.warn(
                    f"There is no memory for {len(images)} images at once; from here on the model gets {half}. "
                    f"A batch size of {half} says so from the start.",
                    stacklevel=2,
                )
            return outcomes
        shares: Any = outputs.get("shares", [None] * len(images))
        return [_outcome(float(score), share) for score, share in zip(outputs["score"], shares, strict=True)]


class Batch:
    """Images for one model: uint8 (N, H, W, 3) in one piece, and what else is known of each."""

    def __init__(self, items: list[Ready]) -> None:
        self.model = items[0].model
        self.images: Images = np.stack([item.image for item in items if item.image is not None])
        self.items = [item._replace(image=None) for item in items]


Outcome = tuple[float | None, tuple[float, ...] | None, str]


def _outcome(score: float, shares: Any) -> Outcome:
    if not np.isfinite(score):
        return None, None, f"The model gave {score} instead of a score. Check the artifact, perhaps in fp32."
    return score, None if shares is None else tuple(float(share) for share in shares), ""


def _add(rows: InOrder[Row], batch: Future[list[tuple[int, Row]]]) -> None:
    for place, row in batch.result():
        rows.add(place, row)


def _open_all(models: Sequence[Model], device: str, threads: int | None, mode: str) -> list[Runtime]:
    """All of them, or none: those that are open are closed where one cannot be opened or does not go with the others."""
    if not models:
        raise MusiqError("There is no model to score with; give one or more.")
    runtimes: list[Runtime] = []
    try:
        for model in models:
            runtimes.append(_open(model, device, threads, mode))
        check_mixture(
            [_model_name(model, index) for index, model in enumerate(models)], [each.spec for each in runtimes]
        )
    except BaseException:
        for runtime, model in zip(runtimes, models, strict=False):
            if isinstance(model, (str, Path)):  # a Runtime given open is its giver's
                runtime.close()
        raise
    return runtimes


def _open(model: Model, device: str, threads: int | None, mode: str) -> Runtime:
    if not isinstance(model, (str, Path)):
        return model
    from musiq.runtimes.registry import open_runtime

    return open_runtime(Path(model), device, threads, mode)


def _nvimagecodec(device: str) -> JpegDecoder:
    from musiq.images.nvimagecodec import NvImageCodec

    return NvImageCodec(device)


def _model_name(model: Model, index: int) -> str:
    return os.fspath(model) if isinstance(model, (str, Path)) else f"#{index}"


def _name(source: Source, index: int) -> str:
    """What a Row calls its source: the path as given; #0, #1, ... for bytes, arrays and file objects without a name."""
    if isinstance(source, (str, Path)):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"#{index}"


def _line(problem: BaseException) -> str:
    """The error on one line; the kind is named for those that are not this package's own."""
    text = " ".join(str(problem).split())
    if isinstance(problem, MusiqError):
        return text
    return f"{type(problem).__name__}: {text}"
