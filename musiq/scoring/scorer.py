"""`Scorer`: images in, scores out, in order; decoding ahead of the model, and no image's trouble is another's."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from musiq.errors import ImageError, is_memory_short
from musiq.hardware import available_cpus
from musiq.images.decode import MAX_PIXELS, Background, JpegDecoder, Source, decoded
from musiq.images.fit import VBENCH, Image
from musiq.images.opencv import one_opencv_thread
from musiq.runtimes.base import Images, Runtime
from musiq.scoring.open_models import Model, each_model, model_name, open_models
from musiq.scoring.options import ScorerOptions
from musiq.scoring.parts import Clip, Part, VideoEnd, VideoOptions, each_part, each_source, with_kind
from musiq.scoring.plan import MAX_TOKENS, Planner, policy_for
from musiq.scoring.prefetch import (
    LOOK_AHEAD,
    MOST_BYTES,
    PATIENCE,
    ImageBatch,
    Limits,
    PreparedImage,
    Unscored,
    in_batches,
    map_ahead,
    rows_in_order,
)
from musiq.scoring.row import Row
from musiq.scoring.thumbnails import thumbnail
from musiq.scoring.videos import joined
from musiq.spec import USUAL_SIZE, Spec
from musiq.video import FrameChoice, VideoFrame, is_video
from musiq.video.open import VideoSource

USUAL_BYTES = 3 * prod(USUAL_SIZE)
"""Of the pixels of an image of the usual size."""

MAX_WORKERS = 16  # beyond it decoders wait for memory, not for CPUs
SPARE = 2
"""How many times the height and width that a model sees are left of a JPEG that is decoded at a part of its size: with 1
scores move by a noticeable part of their range, with more there is little time left to gain."""


class BusyTime:
    """Seconds spent so far, to tell which side is the bottleneck.

    Attributes:
        decode_s: Seconds of decoding and fitting, summed over the threads that decode.
        model_s: Seconds in the model, summed over the calls at once.
    """

    def __init__(self) -> None:
        self.decode_s = 0.0
        self.model_s = 0.0
        self._lock = threading.Lock()

    def add(self, decode_s: float = 0.0, model_s: float = 0.0) -> None:
        with self._lock:
            self.decode_s += decode_s
            self.model_s += model_s


class Scorer:
    """Scores images with one model, or with several of different shapes, of which each image takes the nearest.

    A context manager: leaving it closes the models. Safe to call from several threads where the runtime is.

    Of several models each image goes to the one with the nearest aspect ratio (after its EXIF rotation; a tie to the
    first), so that a portrait need not lose its top and bottom; they must have the same target and outputs. A model of
    any size is alone. Where batches pay, images go to it together that its calls can take together, found among the next
    LOOK_AHEAD; their scores are those that each would get alone.

    However many sources there are, memory holds one batch more than run at once, one being gathered for each model, and
    one and an image for each worker being decoded. Where images have any size, MOST_BYTES of pixels are gathered, and as
    many decoded, at most.

    Attributes:
        spec: What the first model is: the size of its images, the meaning and range of its scores.
        resize: The resize policy in force: "native", "cover", "longer=512".
        models: The names of the models in `Row.model`.
        runtimes: The opened models, in their order.
        batch_size: Images that go to a model at once; for any size those of 1024x768, of smaller ones more.
        workers: Threads that decode.
        in_flight: Batches that run at once.
        busy: Seconds spent decoding and in the model so far.
        per_frame: Whether frames of videos have rows of their own.
    """

    def __init__(
        self,
        model: Model | Sequence[Model] | None = None,
        device: str = "auto",
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        threads: int | None = None,
        mode: str = "latency",
        resize: str | None = None,
        max_pixels: int = MAX_PIXELS,
        max_tokens: int = MAX_TOKENS,
        background: Background = "white",
        reduced_jpeg: bool = False,
        jpeg_decoder: str = "opencv",
        frames: str | int | None = None,
        per_frame: bool = False,
    ) -> None:
        """Open the models.

        Args:
            model: The path of an artifact or checkpoint, the name of a published model, or a Runtime that is open already;
                or a sequence of them. None: the newest in exports/, else the one that comes with this package; which is
                said on stderr.
            device: "auto", "cpu", "cuda:0"; for .onnx also "tensorrt:0" and "cuda-graph:0", for .pt2 "cuda-compile:0".
            batch_size: Images that go to a model at once, at least 1; for a model of any size those of 1024x768, of
                smaller ones more. None: as many as keep the device busy, fewer of large images on CPUs (the runtime's
                `default_batch`).
            workers: Threads that decode ahead of the model, at least 1. None: the CPUs that this process may use, 16
                at most.
            threads: The model's own threads on a CPU, at least 1. None: the CPUs that this process may use.
            mode: "latency": on a CPU all threads work on one batch. "throughput", for .onnx and .xml on CPUs: each thread
                works on a batch of its own, by default so much smaller.
            resize: What a model of any size sees of an image: "native", all of its pixels; "longer=N" or "shorter=N", it
                shrunk until that side has N; "longer=N,enlarge", it also enlarged. None: what the model brings, else
                "native". A model of one size has "cover" alone: the image made to cover it, and the middle cropped.
            max_pixels: An image of more pixels is not decoded, and its row says so; at least 1. The default is the limit
                of Pillow's guard against decompression bombs.
            max_tokens: An image that has more tokens in a model of any size is not scored, and its row says what to do; at
                least 1. The default lets 4000x3000 pixels through.
            background: "white" or "black", what transparent pixels are laid over.
            reduced_jpeg: Decode a JPEG of at least 4 times the height and width that the model sees at 1/2 to 1/8 of its
                size: faster, and scores change a little.
            jpeg_decoder: "opencv", or "nvimagecodec": NVIDIA's package, on the GPU of the model where it has one; its
                pixels differ there by rounding.
            frames: Which frames of a video are scored: "all", a number (so many, evenly spread over its time) or
                "every=1.5s". None: 8. Where it is given, GIFs and animated WebPs are videos too; else they are images.
            per_frame: Give each frame of a video a row of its own, with `frame` and `time_s`.

        Raises:
            MusiqError: A model cannot be opened, models do not go together, or an option makes no sense.
        """
        ScorerOptions(  # refuses those that make no sense
            *(device, batch_size, workers, threads, mode, resize),
            *(max_pixels, max_tokens, background, reduced_jpeg, jpeg_decoder),
            frames=frames,
            per_frame=per_frame,
        )
        models = each_model(model)
        jpeg = _nvimagecodec(device) if jpeg_decoder == "nvimagecodec" else None
        self.models = [model_name(each, index) for index, each in enumerate(models)]
        self.runtimes = open_models(models, device, threads, mode, resize)
        self.spec: Spec = self.runtimes[0].spec
        self._policy = policy_for(resize, self.spec, self.models[0])
        self.resize = str(self._policy)
        self._plan = Planner(self.runtimes, self._policy, max_tokens)
        self.workers = workers or min(MAX_WORKERS, available_cpus())
        self.in_flight: int = max(runtime.in_flight for runtime in self.runtimes)
        self.batch_size = batch_size or max(runtime.default_batch for runtime in self.runtimes)
        self.busy = BusyTime()
        self._room = self._plan.budget(self.batch_size)  # the load that memory has room for at once, as far as is known
        self._reduces = reduced_jpeg and self._policy.kind not in VBENCH
        self.per_frame = per_frame
        self._videos = VideoOptions(
            choice=FrameChoice.parse(frames),
            asked=frames is not None,
            max_pixels=max_pixels,
            background=background,
            threads=self.workers,
            check=self._plan,
            busy=lambda seconds: self.busy.add(decode_s=seconds),
        )
        self._decoded = partial(decoded, max_pixels=max_pixels, background=background, cover=self._needed, jpeg=jpeg)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the models, also a Runtime that was given open.

        Afterwards `score` raises ImageError, and each row of `score_many` has the error, that the model was closed.
        """
        for runtime in self.runtimes:
            runtime.close()

    def score(self, source: Source) -> float:
        """Score one image.

        Args:
            source: A path, a URL (needs the extra `url`), the bytes of a file, a file object open for reading bytes, or
                an array: uint8 or uint16, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA. Of a path or URL that is a
                video's by its name, the score is the mean of its frames: see `score_video`.

        Returns:
            The score in the units of `spec.target`.

        Raises:
            ImageError: The image cannot be scored; the message says why in one line.
        """
        if is_video(source, self._videos.asked):
            score = self.score_video(cast(VideoSource, source)).score
            assert score is not None
            return score
        with _named(source):
            (row,) = self._score_batch(ImageBatch([self._prepared(0, Part("", source))]))
            if row.score is None:
                raise ImageError(row.error)
        return row.score

    def score_video(self, source: VideoSource, frames: str | int | None = None) -> Row:
        """Score one video; needs the extra `video`.

        Args:
            source: A path, a URL (needs the extra `url`), the bytes of a file, or a file object open for reading bytes that
                can be sought in: MP4, MOV, MKV, WebM, AVI, GIF, animated WebP.
            frames: "all", a number or "every=1.5s"; None for what the Scorer was opened with.

        Returns:
            Its Row: `score` is the mean of the frames scored, `frames` how many these are, beside `min`, `median` and
            `max`. What is wrong with it, such as a broken end, is in `fitted`; the frames before count.

        Raises:
            ImageError: It cannot be scored; the message says why in one line.
            MusiqError: There is no such choice of frames.
        """
        choice = self._videos.choice if frames is None else FrameChoice.parse(frames)
        with _named(source):
            (row,) = joined(self._rows([Clip(source, choice)]), per_frame=False)
            if row.score is None:
                raise ImageError(row.error)
        return row

    def score_many(
        self,
        sources: Source | Iterable[Source],
        *,
        thumbnails: bool = False,
        on_frame: Callable[[], object] | None = None,
    ) -> Iterator[Row]:
        """Score images while later ones are being decoded; stopping early stops the threads.

        Args:
            sources: Images and videos as `score` takes them; one alone is a list of one. Read only as far ahead as needed,
                so it may be endless.
            thumbnails: Make one of each image, see `Row`.
            on_frame: Called after each frame of a video that has been scored.

        Yields:
            A Row for each source, in their order; with `per_frame` one for each frame of a video. An image that cannot be
            read, and one that the model fails on, is a Row with its error, never an exception.
        """
        return joined(self._rows(each_source(sources), thumbnails), self.per_frame, on_frame)

    def _rows(self, sources: Iterable[Source | Clip], thumbnails: bool = False) -> Iterator[Row]:
        """Of each image, of each frame, and of the end of each video."""
        limits = self._limits()
        decoders = ThreadPoolExecutor(self.workers, thread_name_prefix="musiq-decode")
        runners = ThreadPoolExecutor(self.in_flight, thread_name_prefix="musiq-run")
        try:
            with one_opencv_thread():
                parts = each_part(sources, self._videos)
                images = map_ahead(decoders, partial(self._decode, thumbnails), parts, limits)
                batches = in_batches(images, limits)
                yield from rows_in_order(runners, self._score_batch, batches, self.in_flight, limits.patience)
        finally:
            decoders.shutdown(wait=True, cancel_futures=True)
            runners.shutdown(wait=True, cancel_futures=True)

    def _limits(self) -> Limits:
        budget, ahead = self._plan.budget(self.batch_size), self.batch_size + self.workers
        if not self._plan.any_size:
            return Limits(budget, ahead, PATIENCE * self.batch_size)
        return Limits(
            budget, ahead, LOOK_AHEAD if budget else PATIENCE, max(MOST_BYTES, 2 * self.batch_size * USUAL_BYTES)
        )

    def _decode(self, thumbnails: bool, place: int, part: Part) -> PreparedImage | Unscored:
        start = time.perf_counter()
        if isinstance(part.content, VideoEnd):
            return Unscored(place, part.content)
        try:
            return self._prepared(place, part, thumbnails)
        except Exception as problem:
            frame, time_s = _moment(part) or (None, None)
            return Unscored(place, Row(part.name, None, error=with_kind(problem), frame=frame, time_s=time_s))
        finally:
            self.busy.add(decode_s=time.perf_counter() - start)

    def _prepared(self, place: int, part: Part, thumbnails: bool = False) -> PreparedImage:
        with self._pixels(part.content) as (image, reduction, size):
            small = thumbnail(image) if thumbnails else b""
            plan = self._plan(*size)
            image, fitted = self._policy.apply(image, plan.height, plan.width, reduction)
        return PreparedImage(place, part.name, image, plan, fitted, small, _moment(part))

    def _pixels(self, content: Any) -> AbstractContextManager[tuple[Image, int, tuple[int, int]]]:
        """As `decoded` yields them."""
        if isinstance(content, VideoFrame):
            return nullcontext((content.pixels(), 1, (content.height, content.width)))
        return self._decoded(content)

    def _needed(self, height: int, width: int) -> tuple[int, int] | None:
        """What a JPEG of this size has to cover where it is decoded at a part of it. Raises ImageError for one that is too
        large for the model."""
        plan = self._plan(height, width)
        return (plan.height * SPARE, plan.width * SPARE) if self._reduces else None

    def _score_batch(self, batch: ImageBatch) -> list[Row]:
        start = time.perf_counter()
        outcomes = self._run(self.runtimes[batch.model], batch.images, batch.loads)
        self.busy.add(model_s=time.perf_counter() - start)
        model = self.models[batch.model]
        return [
            Row(
                *(path, outcome.score, fitted, outcome.error, outcome.shares, model, size, small),
                frame=moment[0],
                time_s=moment[1],
            )
            for path, fitted, size, small, moment, outcome in zip(
                *(batch.paths, batch.fitted, batch.sizes, batch.thumbnails, batch.moments, outcomes), strict=True
            )
        ]

    def _run(self, runtime: Runtime, images: Images | list[Images], loads: list[int]) -> list[_Outcome]:
        """The model's outcome for each image; of a batch that fails, its halves are tried, down to the image at fault."""
        fit_in = sum(load <= self._room for load in accumulate(loads)) or 1
        if fit_in < len(images):  # what had no room once is not tried again
            return self._in_two(runtime, images, loads, fit_in)
        try:
            outputs = runtime.run(images)
        except Exception as problem:
            if len(images) == 1:
                return [_Outcome(error=f"The model failed on this image: {with_kind(problem)}")]
            half = len(images) // 2
            outcomes, room = self._in_two(runtime, images, loads, half), sum(loads[:half])
            if is_memory_short(problem) and room < self._room and any(not outcome.error for outcome in outcomes):
                self._room = room
                warnings.warn(
                    f"There is no memory for {len(images)} images at once; from here on the model gets {half}"
                    f"{f', or others of {room:,} tokens' if self._plan.any_size else ''}. "
                    f"A batch size of {max(1, room // self._plan.usual_load)} says so from the start.",
                    stacklevel=2,
                )
            return outcomes
        shares: Any = outputs.get("shares", [None] * len(images))
        return [_outcome(float(score), share) for score, share in zip(outputs["score"], shares, strict=True)]

    def _in_two(self, runtime: Runtime, images: Images | list[Images], loads: list[int], first: int) -> list[_Outcome]:
        return self._run(runtime, images[:first], loads[:first]) + self._run(runtime, images[first:], loads[first:])


@contextmanager
def _named(source: Source | VideoSource) -> Iterator[None]:
    """Errors say which image or video they are of, where it was given by a name."""
    try:
        yield
    except ImageError as problem:
        raise ImageError(f"{source}: {problem}" if isinstance(source, str | Path) else str(problem)) from problem


class _Outcome(NamedTuple):
    """What the model gave for one image, or why it gave nothing."""

    score: float | None = None
    shares: tuple[float, ...] | None = None
    error: str = ""


def _outcome(score: float, shares: Any) -> _Outcome:
    if not np.isfinite(score):
        return _Outcome(error=f"The model gave {score} instead of a score. Check the artifact, perhaps in fp32.")
    return _Outcome(score, None if shares is None else tuple(float(share) for share in shares))


def _moment(part: Part) -> tuple[int, float] | None:
    """The number and time of a frame, None for an image."""
    return (part.content.number, part.content.time_s) if isinstance(part.content, VideoFrame) else None


def _nvimagecodec(device: str) -> JpegDecoder:
    from musiq.images.nvimagecodec import NvImageCodec

    return NvImageCodec(device)
