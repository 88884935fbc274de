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

from musiq.hardware import available_cpus
from musiq.timing import timed

from ..machine.environment import peak_memory_mib
from ..machine.nvml import Watch
from ..plan.job import DecodedFiles, Job, Opened, Times
from .call_images import CallImages, DecodedImages, MixedImages

if TYPE_CHECKING:
    from musiq.artifact import Record
    from musiq.runtimes.base import Runtime, Scores

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

        special = job.compiled or job.height or job.any_size or job.precision != "fp32"
        return _open_checkpoint(job) if special else open_runtime(Path(job.path), job.device, job.threads)

    if job.cache:
        # What was compiled for an earlier run would make this one's cold start a warm one.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = job.cache
    return timed(open_now)


def _open_checkpoint(job: Job) -> Runtime:
    """A checkpoint as it is asked for: for another image size than its own or any, compiled, or in another precision."""
    from musiq.runtimes.base import RuntimeOptions
    from musiq.runtimes.pytorch import open_checkpoint

    return open_checkpoint(
        Path(job.path),
        RuntimeOptions(job.device, job.threads),
        height=job.height,
        width=job.width,
        any_size=job.any_size,
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
        resize = (job.resize or spec.resize or "native") if spec.any_size else ""
        opened = Opened(provider, load_s, threads, spec.height, spec.width, spec.target, resize)
        send("opened", **asdict(opened))
        images: CallImages
        if spec.any_size:
            images = MixedImages(receive(), runtime, resize, job.batch)
        else:
            images = DecodedImages(receive(), *spec.fixed_size)
        times = _times(job, runtime, images, send, watch)
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


def _times(job: Job, runtime: Runtime, images: CallImages, send: Send, watch: Watch) -> Times:
    first = images.decoded(0, job.batch)
    _, cold_s = timed(partial(runtime, first))
    # Of a mixture each round meets sizes for the first time, as whoever scores images once does: it is scored afterwards.
    mixed = isinstance(images, MixedImages)
    scores = _scores(job, runtime, images, send) if job.score and not mixed else []
    warm_calls = -(-len(scores) // job.batch)
    for call in _until(job.warmup_calls - warm_calls, job.warmup_seconds, send, "warming up"):
        runtime(images.decoded(-(call + 1) * job.batch, job.batch) if mixed else first)
    watch.timing = True
    latencies_ms, seen, sizes = _timed_calls(job, runtime, images, send)
    watch.timing = False
    if job.score and mixed:
        scores = _scores(job, runtime, images, send)
    end_to_end_ms = []
    for call in _until(job.end_to_end_calls, 0, send, "timing from files"):
        _, taken_s = timed(partial(_score_files, runtime, images, call * job.batch, job.batch))
        end_to_end_ms.append(1e3 * taken_s)
    runtime.close()
    return Times(1e3 * cold_s, latencies_ms, end_to_end_ms, scores, seen, sizes)


def _timed_calls(
    job: Job, runtime: Runtime, images: CallImages, send: Send
) -> tuple[list[float], dict[str, float], list[tuple[int, int]]]:
    """Milliseconds of each call, the scores that they gave by the index of the image, and of a mixture the size of the
    first image in each."""
    latencies_ms, seen, sizes = [], dict[str, float](), []
    for call in _until(job.calls, job.seconds, send, "timing"):
        scores, taken_s = timed(partial(runtime, images.decoded(call * job.batch, job.batch)))
        latencies_ms.append(1e3 * taken_s)
        places = images.places(call * job.batch, job.batch)
        seen.update(zip(map(str, places), scores.tolist(), strict=True))
        if isinstance(images, MixedImages):
            sizes.append(images.sizes[places[0]])
    return latencies_ms, seen, sizes


def _score_files(runtime: Runtime, images: CallImages, index: int, count: int) -> Scores:
    return runtime(images.from_files(index, count))


def _scores(job: Job, runtime: Runtime, images: CallImages, send: Send) -> list[float]:
    """The score of every image, in whole batches alone, the last filled up: every call has a shape that is measured."""
    scores: dict[int, float] = {}
    for index in range(0, images.one_pass(job.batch), job.batch):
        found = runtime(images.decoded(index, job.batch)).tolist()
        scores = dict(zip(images.places(index, job.batch), found, strict=True)) | scores  # an image has its first score
        send("progress", doing="scoring", done=len(scores), of=len(images.files))
    return [scores[place] for place in range(len(images.files))]


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
