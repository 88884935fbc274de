"""The measuring process: open one model, warm it up, score the pictures, time the calls, say what came out.

Run as `python -m musiq_bench.child JOB`, JOB a JSON object of `musiq_bench.process.Job`; see there for what is said.
Two clocks: `model` is uint8 pictures in host memory to scores in host memory; `end to end` is files on disk to scores,
read, decoded, fitted and scored one after another.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .environment import device_memory_mib, peak_memory_mib
from .process import Job

if TYPE_CHECKING:
    from musiq.runtimes import Images, Runtime

T = TypeVar("T")
Say = Callable[..., None]


def main() -> None:
    say = _private_stdout()
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


def measure(job: Job, say: Say) -> None:
    memory_before = device_memory_mib()
    runtime, load_s = open_model(job)
    wanted, provider = job.device.split(":")[0], runtime.provider
    if wanted not in ("auto", "cpu") and "cpu" in provider.lower():
        say("failed", status="fallback", reason=f"asked for {job.device}, but {provider} is what runs")
        return
    spec = runtime.spec
    facts = {"height": spec.height, "width": spec.width, "target": spec.target}
    say("opened", provider=provider, load_s=load_s, **facts)
    pictures = Pictures(**json.loads(sys.stdin.readline()), height=spec.height, width=spec.width)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    figures = _figures(job, runtime, pictures, say)
    memory_after = device_memory_mib()
    taken = None if memory_before is None or memory_after is None else max(0.0, memory_after - memory_before)
    say("finished", **figures, peak_memory_mib=peak_memory_mib(), device_memory_mib=taken, tf32=tf32())


def _die_with_parent() -> None:
    """Nobody waits for the figures any more once the other end of standard input is closed."""
    sys.stdin.read()
    os._exit(1)


def open_model(job: Job) -> tuple[Runtime, float]:
    """The runtime, and the seconds that opening it took, its imports included."""
    from musiq.runtimes import open_runtime

    start = time.perf_counter()
    runtime = open_runtime(Path(job.path), job.device, job.threads)
    load_s = time.perf_counter() - start
    size = runtime.spec.height, runtime.spec.width
    wanted = job.height or size[0], job.width or size[1]
    if wanted == size:
        return runtime, load_s
    runtime.close()
    # Only a checkpoint can be asked for another size: the same weights, saved once more with that size for their own.
    from musiq import checkpoint

    with tempfile.TemporaryDirectory(prefix="musiq-bench-") as folder:
        resized = Path(folder) / "resized.safetensors"
        checkpoint.save(checkpoint.load(job.path, *wanted), resized)
        return open_runtime(resized, job.device, job.threads), load_s


class Pictures:
    """The pictures that every model of one size gets, decoded once by the parent into a file of raw bytes."""

    def __init__(self, raw: str, files: list[str], height: int, width: int) -> None:
        self.files = [Path(file) for file in files]
        self.raw, self.shape = raw, (height, width, 3)

    def decoded(self, index: int, count: int) -> Images:
        """`count` pictures from `index` on, uint8 (count, H, W, 3), beginning anew where they end.

        Read, not mapped: mapped pages would count as this model's memory.
        """
        size = int(np.prod(self.shape))
        batch = np.empty((count, *self.shape), np.uint8)
        with open(self.raw, "rb") as file:
            for place in range(count):
                file.seek((index + place) % len(self.files) * size)
                file.readinto(batch[place].data)
        return batch

    def from_files(self, index: int, count: int) -> Images:
        """The same pictures, but read, decoded and fitted now."""
        from musiq.image import prepare

        wanted = [self.files[(index + place) % len(self.files)] for place in range(count)]
        return np.stack([prepare(file, self.shape[0], self.shape[1])[0] for file in wanted])


def _figures(job: Job, runtime: Runtime, pictures: Pictures, say: Say) -> dict[str, Any]:
    first = pictures.decoded(0, job.batch)
    cold_ms = _timed(runtime, first)
    scores: list[float] = []
    if job.score:
        # Whole batches alone, the last filled up from the start, so that every call has the shape that is measured.
        for index in range(0, len(pictures.files), job.batch):
            scores += runtime(pictures.decoded(index, job.batch)).tolist()
            say("progress", doing="scoring", done=min(len(scores), len(pictures.files)), of=len(pictures.files))
    warm_calls = -(-len(scores) // job.batch)
    for _ in _until(job.warmup_calls - warm_calls, job.warmup_seconds, say, "warming up"):
        runtime(first)
    calls = _until(job.calls, job.seconds, say, "timing")
    latencies = [_timed(runtime, pictures.decoded(call * job.batch, job.batch)) for call in calls]
    calls = _until(job.end_to_end_calls, 0, say, "timing from files")
    end_to_end = [_timed(lambda at: runtime(pictures.from_files(at, job.batch)), call * job.batch) for call in calls]
    runtime.close()
    return {
        "cold_start_ms": cold_ms,
        "latencies_ms": latencies,
        "end_to_end_ms": end_to_end,
        "scores": scores[: len(pictures.files)],
    }


def _timed(call: Callable[[T], object], argument: T) -> float:
    """Milliseconds of one call; a runtime that has returned has finished."""
    start = time.perf_counter_ns()
    call(argument)
    return (time.perf_counter_ns() - start) / 1e6


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


def tf32() -> str | None:
    """What PyTorch may round to TF32 on a GPU, where this process runs PyTorch on one; None elsewhere."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    convolutions = "on" if torch.backends.cudnn.allow_tf32 else "off"
    products = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
    return f"matrix products {products}, convolutions {convolutions}"


def diagnose(problem: BaseException) -> tuple[str, str]:
    """(status, reason) of an exception, by its kind or that of what caused it."""
    chain: list[BaseException] = [problem]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    from musiq.errors import MusiqError

    said = " ".join(str(problem).split())[:400]
    reason = said if isinstance(problem, MusiqError) else f"{type(problem).__name__}: {said}"
    starved = ("out of memory", "bad_alloc", "failed to allocate memory", "can't allocate memory")
    if any(isinstance(each, MemoryError) or any(word in str(each).lower() for word in starved) for each in chain):
        return "out of memory", reason
    if any(isinstance(each, ImportError) for each in chain):
        return "missing package", reason
    return "failed", reason


if __name__ == "__main__":
    main()
