"""`Scorer`: pictures in, scores out, in order; decoding ahead of the model, and no picture's trouble is another's."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from musiq.errors import ImageError, MusiqError
from musiq.image import MAX_PIXELS, Background, Image, Source, prepare
from musiq.runtimes import Runtime
from musiq.spec import Spec
from musiq.threads import available_cpus

BATCH = 8
MAX_WORKERS = 16  # beyond it decoders wait for memory, not for CPUs


@dataclass(frozen=True)
class Row:
    """One picture's outcome: `score` in the units of `spec.target`, or `error`, why there is none.

    `fitted` says how the picture was made to fit the model's size, "" where it already had it. `shares` are those of the
    ratings 1..K, for models that predict a distribution.
    """

    path: str
    score: float | None
    fitted: str = ""
    error: str = ""
    shares: tuple[float, ...] | None = None


class _Ready(NamedTuple):
    path: str
    image: Image | None
    fitted: str
    error: str


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
    """Scores pictures with one artefact, or with a Runtime that is already open.

    `batch_size` pictures go to the model at once; `workers` threads decode ahead of it (default: the CPUs that this
    process may use, 16 at most; OpenCV works outside Python's lock); `threads` are the model's own on a CPU (default: the
    runtime's). At most two batches wait for the model and one for each worker is being decoded, however many sources
    there are. Safe to call from several threads where the runtime is. A context manager: leaving it closes the runtime.
    Raises MusiqError for a model that cannot be opened.
    """

    def __init__(
        self,
        model: str | Path | Runtime,
        device: str = "auto",
        *,
        batch_size: int = BATCH,
        workers: int | None = None,
        threads: int | None = None,
        max_pixels: int = MAX_PIXELS,
        background: Background = "white",
    ) -> None:
        if batch_size < 1 or (workers is not None and workers < 1):
            raise MusiqError(f"batch_size is {batch_size} and workers {workers}; expected at least 1 of each.")
        self.runtime = _open(model, device, threads)
        self.spec: Spec = self.runtime.spec
        self.batch_size = batch_size
        self.workers = workers or min(MAX_WORKERS, available_cpus())
        self.busy = Busy()
        self._decoding: dict[str, Any] = {"max_pixels": max_pixels, "background": background}

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.runtime.close()

    def score(self, source: Source) -> float:
        """The score of one picture. Raises ImageError for one that cannot be scored."""
        image, _ = prepare(source, self.spec.height, self.spec.width, **self._decoding)
        (row,) = self._rows([_Ready(_name(source, 0), image, "", "")])
        if row.score is None:
            raise ImageError(row.error)
        return row.score

    def score_many(self, sources: Iterable[Source]) -> Iterator[Row]:
        """A Row for each source, in their order, while later ones are being decoded and scored.

        A picture that cannot be read, and one that the model fails on, is a Row with its error. `sources` is read only
        as far ahead as needed, so it may be endless; stopping early stops the threads.
        """
        decoders = ThreadPoolExecutor(self.workers, thread_name_prefix="musiq-decode")
        runner = ThreadPoolExecutor(1, thread_name_prefix="musiq-run")
        running: deque[Future[list[Row]]] = deque()
        try:
            ready = self._decode_ahead(decoders, sources)
            while batch := list(islice(ready, self.batch_size)):
                running.append(runner.submit(self._rows, batch))
                if len(running) > 1:  # one runs, one waits: the model never waits for whoever takes the rows
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            decoders.shutdown(wait=True, cancel_futures=True)
            runner.shutdown(wait=True, cancel_futures=True)

    def _decode_ahead(self, decoders: ThreadPoolExecutor, sources: Iterable[Source]) -> Iterator[_Ready]:
        ahead: deque[Future[_Ready]] = deque()
        for index, source in enumerate(sources):
            ahead.append(decoders.submit(self._decode, source, index))
            if len(ahead) >= self.batch_size + self.workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _decode(self, source: Source, index: int) -> _Ready:
        start = time.perf_counter()
        path = _name(source, index)
        try:
            image, fitted = prepare(source, self.spec.height, self.spec.width, **self._decoding)
            return _Ready(path, image, fitted, "")
        except Exception as problem:
            return _Ready(path, None, "", _line(problem))
        finally:
            self.busy.add(decode_s=time.perf_counter() - start)

    def _rows(self, batch: list[_Ready]) -> list[Row]:
        start = time.perf_counter()
        images = [ready.image for ready in batch if ready.image is not None]
        outcomes = iter(self._run(images) if images else [])
        rows = []
        for ready in batch:
            if ready.image is None:
                rows.append(Row(ready.path, None, error=ready.error))
            else:
                score, shares, error = next(outcomes)
                rows.append(Row(ready.path, score, ready.fitted, error, shares))
        self.busy.add(model_s=time.perf_counter() - start)
        return rows

    def _run(self, images: list[Image]) -> list[tuple[float | None, tuple[float, ...] | None, str]]:
        """Score, shares and error of each picture; a batch that fails is tried again in halves."""
        try:
            outputs = self.runtime.run(np.stack(images))
        except Exception as problem:
            if len(images) == 1:
                return [(None, None, f"The model failed on this picture: {_line(problem)}")]
            half = len(images) // 2
            return self._run(images[:half]) + self._run(images[half:])
        shares: Any = outputs.get("shares", [None] * len(images))
        return [_outcome(float(score), share) for score, share in zip(outputs["score"], shares, strict=True)]


def _outcome(score: float, shares: Any) -> tuple[float | None, tuple[float, ...] | None, str]:
    if not np.isfinite(score):
        return None, None, f"The model gave {score} instead of a score. Check the artefact, perhaps in fp32."
    return score, None if shares is None else tuple(float(share) for share in shares), ""


def _open(model: str | Path | Runtime, device: str, threads: int | None) -> Runtime:
    if not isinstance(model, (str, Path)):
        return model
    from musiq.runtimes import open_runtime

    return open_runtime(Path(model), device, threads)


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
