"""The measuring process: open one model, warm it up, score the images, time the calls, say what came out.

Run as `python -m musiq_bench.measure.worker JOB`, JOB a JSON object of `musiq_bench.plan.cases.Job`; see there for
what is said. Two clocks: `model` is uint8 images in host memory to scores in host memory; `end to end` is files on
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from musiq.hardware import available_cpus

from ..machine.environment import peak_memory_mib
from ..machine.nvml import Watch
from ..plan.cases import Job

if TYPE_CHECKING:
    from musiq.artifact import Record
    from musiq.runtimes.base import Images, Runtime

T = TypeVar("T")
R = TypeVar("R")
Say = Callable[..., None]


def main() -> None:
    say = _private_stdout()
    _go_first()
    try:
        measure(Job(**json.loads(sys.argv[1])), say)
    except Exception as problem:
        status, reason = diagnose(problem)
        say("failed", status=status, reason=reason)


def _private_stdout() -> Say:
    """Keep standard output for messages: what libraries print goes to standard error."""
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(event: str, **content: Any) -> None:
        print(json.dumps({"event": event, **content}), file=messages, flush=True)

    return say


def _go_first() -> None:
    """Where the machine runs out of memory, Linux ends this process, whose row then says so, and no other program."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def measure(job: Job, say: Say) -> None:
    with Watch() as watch:
        runtime, load_s = open_model(job)
        wanted, provider = job.device.split(":")[0], runtime.provider
        if wanted not in ("auto", "cpu") and "cpu" in provider.lower():
            say("failed", status="fallback", reason=f"asked for {job.device}, but {provider} is what runs")
            return
        spec = runtime.spec
        facts = {"height": spec.height, "width": spec.width, "target": spec.target}
        say("opened", provider=provider, load_s=load_s, threads=job.threads or available_cpus(), **facts)
        images = DecodedImages(**json.loads(sys.stdin.readline()), height=spec.height, width=spec.width)
        threading.Thread(target=_die_with_parent, daemon=True).start()
        figures = _figures(job, runtime, images, say, watch)
    devices = {"device_memory_mib": watch.peak_mib, "gpu_clock_mhz": watch.clock_mhz}
    say("finished", **figures, **devices, peak_memory_mib=peak_memory_mib(), tf32=tf32(job, provider))


def _die_with_parent() -> None:
    """Nobody waits for the figures any more once the other end of standard input is closed."""
    sys.stdin.read()
    os._exit(1)


def open_model(job: Job) -> tuple[Runtime, float]:
    """The runtime, and the seconds that opening it took, its imports included."""
    from musiq.runtimes.registry import open_runtime

    start = time.perf_counter()
    if job.cache:
        # What was compiled for an earlier run would make this one's cold start a warm one.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = job.cache
    special = job.compiled or job.height or job.precision != "fp32"
    runtime = _open_checkpoint(job) if special else open_runtime(Path(job.path), job.device, job.threads)
    return runtime, time.perf_counter() - start


def _open_checkpoint(job: Job) -> Runtime:
    """A checkpoint as it is asked for: at another image size than its own, compiled, or in another precision."""
    from musiq.runtimes.pytorch import open_checkpoint

    size = job.height, job.width
    return open_checkpoint(Path(job.path), job.device, job.threads, *size, job.compiled, job.precision)


class DecodedImages:
    """The images that every model of one size gets, decoded once by the parent into a file of raw bytes."""

    def __init__(self, raw: str, files: list[str], height: int, width: int) -> None:
        self.files = [Path(file) for file in files]
        self.raw, self.shape = raw, (height, width, 3)

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


def _figures(job: Job, runtime: Runtime, images: DecodedImages, say: Say, watch: Watch) -> dict[str, Any]:
    first = images.decoded(0, job.batch)
    cold_ms, _ = _timed(runtime, first)
    scores = _scores(job, runtime, images, say) if job.score else []
    warm_calls = -(-len(scores) // job.batch)
    for _ in _until(job.warmup_calls - warm_calls, job.warmup_seconds, say, "warming up"):
        runtime(first)
    latencies, seen = [], dict[int, float]()
    watch.timing = True
    for call in _until(job.calls, job.seconds, say, "timing"):
        taken_ms, found = _timed(runtime, images.decoded(call * job.batch, job.batch))
        latencies.append(taken_ms)
        seen.update(zip(images.places(call * job.batch, job.batch), found.tolist(), strict=True))
    watch.timing = False
    calls = _until(job.end_to_end_calls, 0, say, "timing from files")
    end_to_end = [_timed(lambda at: runtime(images.from_files(at, job.batch)), call * job.batch)[0] for call in calls]
    runtime.close()
    return {
        "cold_start_ms": cold_ms,
        "latencies_ms": latencies,
        "end_to_end_ms": end_to_end,
        "scores": scores,
        "seen": {str(place): score for place, score in seen.items()},
    }


def _scores(job: Job, runtime: Runtime, images: DecodedImages, say: Say) -> list[float]:
    """The score of every image, in whole batches alone, the last filled up from the start: every call has the shape
    that is measured."""
    scores: list[float] = []
    for index in range(0, len(images.files), job.batch):
        scores += runtime(images.decoded(index, job.batch)).tolist()
        say("progress", doing="scoring", done=min(len(scores), len(images.files)), of=len(images.files))
    return scores[: len(images.files)]


def _timed(call: Callable[[T], R], argument: T) -> tuple[float, R]:
    """Milliseconds of one call, and what it gave; a runtime that has returned has finished."""
    start = time.perf_counter_ns()
    result = call(argument)
    return (time.perf_counter_ns() - start) / 1e6, result


def _until(calls: int, seconds: float, say: Say, doing: str) -> Iterator[int]:
    """Count calls until there are at least so many and so many seconds have gone by."""
    start = said = time.perf_counter()
    done = 0
    while done < calls or time.perf_counter() - start < seconds:
        yield done
        done += 1
        if time.perf_counter() - said > 0.5:
            say("progress", doing=doing, done=done, of=max(calls, done))
            said = time.perf_counter()


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
    built = record.details.get("tf32") if (record := _record(Path(job.path))) else None
    return None if built is None else "on" if built else "off"


def _record(path: Path) -> Record | None:
    from musiq.artifact import read_record

    return read_record(path)


def diagnose(problem: BaseException) -> tuple[str, str]:
    """(status, reason) of an exception, by its kind or that of what caused it."""
    from musiq.errors import MusiqError, causes, is_memory_short

    said = " ".join(str(problem).split())[:400]
    reason = said if isinstance(problem, MusiqError) else f"{type(problem).__name__}: {said}"
    if is_memory_short(problem):
        return "out of memory", reason
    if any(isinstance(each, ImportError) for each in causes(problem)):
        return "missing package", reason
    return "failed", reason


if __name__ == "__main__":
    main()
