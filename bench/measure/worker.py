"""The measuring process: open one model, warm it up, score the images, time the calls, write what came out.

Run as `python -m musiq_bench.measure.worker JOB`, JOB a JSON object of `musiq_bench.plan.job.Job`; see there for
what is written. Two clocks: `model` is uint8 images in host memory to scores in host memory; `end to end` is files on
disk to scores, read, decoded, fitted and scored one after another.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musiq.hardware import available_cpus
from musiq.timing import timed

from ..machine.environment import peak_memory_mib
from ..machine.nvml import Watch
from ..plan.job import DecodedFiles, Job, Opened, Times

if TYPE_CHECKING:
    from musiq.artifact import Record
    from musiq.runtimes.base import Images, Runtime, Scores

Send = Callable[..., None]
"""Writes a message: the event, and its content by name."""


def main() -> None:
    send = _private_stdout()
    _go_first()
    try:
        measure(Job(**json.loads(sys.argv[1])), send, _receive_images)
    except Exception as problem:
        status, reason = diagnose(problem)
        send("failed", status=status, reason=reason)


def _private_stdout() -> Send:
    """Keep standard output for messages: what libraries print goes to standard error."""
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(event: str, **content: Any) -> None:
        print(json.dumps({"event": event, **content}), file=messages, flush=True)

    return send


def _go_first() -> None:
    """Where the machine runs out of memory, Linux ends this process, which then is a row, and no other program."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def open_model(job: Job) -> tuple[Runtime, float]:
    """The runtime, and the seconds that opening it took, its imports included."""

    def open_now() -> Runtime:
        from musiq.runtimes.registry import open_runtime

        special = job.compiled or job.height or job.precision != "fp32"
        return _open_checkpoint(job) if special else open_runtime(Path(job.path), job.device, job.threads)

    if job.cache:
        # What was compiled for an earlier run would make this one's cold start a warm one.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = job.cache
    return timed(open_now)


def _open_checkpoint(job: Job) -> Runtime:
    """A checkpoint as it is asked for: at another image size than its own, compiled, or in another precision."""
    from musiq.runtimes.base import RuntimeOptions
    from musiq.runtimes.pytorch import open_checkpoint

    return open_checkpoint(
        Path(job.path),
        RuntimeOptions(job.device, job.threads),
        height=job.height,
        width=job.width,
        compiled=job.compiled,
        precision=job.precision,
    )


def measure(
    job: Job,
    send: Send,
    receive: Callable[[], DecodedFiles],
    open_model: Callable[[Job], tuple[Runtime, float]] = open_model,
) -> None:
    """Do a job.

    Args:
        job: What to measure.
        send: Is given `opened`, `progress` now and then, and in the end `finished` or `failed`.
        receive: Gives the images, once `opened` has said what size they should have.
        open_model: Opens the job's model: the runtime, and the seconds that it took.
    """
    with Watch() as watch:
        runtime, load_s = open_model(job)
        wanted, provider = job.device.split(":")[0], runtime.provider
        if wanted not in ("auto", "cpu") and "cpu" in provider.lower():
            send("failed", status="fallback", reason=f"asked for {job.device}, but {provider} is what runs")
            return
        spec = runtime.spec
        threads = job.threads or available_cpus()
        send("opened", **asdict(Opened(provider, load_s, threads, spec.height, spec.width, spec.target)))
        times = _times(job, runtime, DecodedImages(receive(), spec.height, spec.width), send, watch)
    memory = {"device_memory_mib": watch.peak_mib, "peak_memory_mib": peak_memory_mib()}
    send("finished", **asdict(times), **memory, gpu_clock_mhz=watch.clock_mhz, tf32=tf32(job, provider))


def _receive_images() -> DecodedFiles:
    decoded = DecodedFiles(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_die_with_parent, daemon=True).start()
    return decoded


def _die_with_parent() -> None:
    """Nobody waits for the figures any more once the other end of standard input is closed."""
    sys.stdin.read()
    os._exit(1)


class DecodedImages:
    """The images that every model of one size gets, decoded once by the parent into a file of raw bytes."""

    def __init__(self, decoded: DecodedFiles, height: int, width: int) -> None:
        self.files = [Path(file) for file in decoded.files]
        self.raw, self.shape = decoded.raw, (height, width, 3)

    def decoded(self, index: int, count: int) -> Images:
        """`count` images from `index` on, uint8 (count, H, W, 3), beginning anew where they end.

        Read, not mapped: mapped pages would count as this model's memory.
        """
        size = int(np.prod(self.shape))
        batch = np.empty((count, *self.shape), np.uint8)
        with open(self.raw, "rb") as file:
            for row, place in enumerate(self.places(index, count)):
                file.seek(place * size)
                file.readinto(batch[row].data)
        return batch

    def places(self, index: int, count: int) -> list[int]:
        """Which of the images those `count` from `index` on are."""
        return [(index + row) % len(self.files) for row in range(count)]

    def from_files(self, index: int, count: int) -> Images:
        """The same images, but read, decoded and fitted now."""
        from musiq.images.decode import prepare

        wanted = [self.files[place] for place in self.places(index, count)]
        return np.stack([prepare(file, self.shape[0], self.shape[1])[0] for file in wanted])


def _times(job: Job, runtime: Runtime, images: DecodedImages, send: Send, watch: Watch) -> Times:
    first = images.decoded(0, job.batch)
    _, cold_s = timed(partial(runtime, first))
    scores = _scores(job, runtime, images, send) if job.score else []
    warm_calls = -(-len(scores) // job.batch)
    for _ in _until(job.warmup_calls - warm_calls, job.warmup_seconds, send, "warming up"):
        runtime(first)
    watch.timing = True
    latencies_ms, seen = _timed_calls(job, runtime, images, send)
    watch.timing = False
    end_to_end_ms = []
    for call in _until(job.end_to_end_calls, 0, send, "timing from files"):
        _, taken_s = timed(partial(_score_files, runtime, images, call * job.batch, job.batch))
        end_to_end_ms.append(1e3 * taken_s)
    runtime.close()
    return Times(1e3 * cold_s, latencies_ms, end_to_end_ms, scores, seen)


def _timed_calls(job: Job, runtime: Runtime, images: DecodedImages, send: Send) -> tuple[list[float], dict[str, float]]:
    """Milliseconds of each call, and the scores that they gave by the index of the image."""
    latencies_ms, seen = [], dict[str, float]()
    for call in _until(job.calls, job.seconds, send, "timing"):
        scores, taken_s = timed(partial(runtime, images.decoded(call * job.batch, job.batch)))
        latencies_ms.append(1e3 * taken_s)
        seen.update(zip(map(str, images.places(call * job.batch, job.batch)), scores.tolist(), strict=True))
    return latencies_ms, seen


def _score_files(runtime: Runtime, images: DecodedImages, index: int, count: int) -> Scores:
    return runtime(images.from_files(index, count))


def _scores(job: Job, runtime: Runtime, images: DecodedImages, send: Send) -> list[float]:
    """The score of every image, in whole batches alone, the last filled up from the start: every call has the shape
    that is measured."""
    scores: list[float] = []
    for index in range(0, len(images.files), job.batch):
        scores += runtime(images.decoded(index, job.batch)).tolist()
        send("progress", doing="scoring", done=min(len(scores), len(images.files)), of=len(images.files))
    return scores[: len(images.files)]


def _until(calls: int, seconds: float, send: Send, doing: str) -> Iterator[int]:
    """Count calls until there are at least so many and so many seconds have gone by."""
    start = sent = time.perf_counter()
    done = 0
    while done < calls or time.perf_counter() - start < seconds:
        yield done
        done += 1
        if time.perf_counter() - sent > 0.5:
            send("progress", doing=doing, done=done, of=max(calls, done))
            sent = time.perf_counter()


def tf32(job: Job, provider: str) -> str | None:
    """What may be rounded to TF32 on a GPU; None on a CPU, which has no TF32, and where nothing tells.

    PyTorch is asked; the ONNX Runtime runtime turns it off; an engine's record has what it was built with.
    """
    if "cpu" in provider.lower():
        return None
    torch = sys.modules.get("torch")
    if torch is not None and provider.lower().startswith(("torch", "pytorch")):
        convolutions = "on" if torch.backends.cudnn.allow_tf32 else "off"
        products = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
        return f"matrix products {products}, convolutions {convolutions}"
    if "CUDAExecutionProvider" in provider:
        return "off"
    built = record.details.tf32 if (record := _record(Path(job.path))) else None
    return None if built is None else "on" if built else "off"


def _record(path: Path) -> Record | None:
    from musiq.artifact import read_record

    return read_record(path)


def diagnose(problem: BaseException) -> tuple[str, str]:
    """(status, reason) of an exception, by its kind or that of what caused it."""
    from musiq.errors import MusiqError, causes, is_memory_short

    text = " ".join(str(problem).split())[:400]
    reason = text if isinstance(problem, MusiqError) else f"{type(problem).__name__}: {text}"
    if is_memory_short(problem):
        return "out of memory", reason
    if any(isinstance(each, ImportError) for each in causes(problem)):
        return "missing package", reason
    return "failed", reason


if __name__ == "__main__":
    main()
