"""Profiles of models by operator, as each runtime accounts for its own, beside the peak rate of this processor.

`python -m musiq_bench.profiling.operators model.onnx model.xml best.safetensors` prints the tables of docs/benchmarks.md.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from musiq import artifact, markdown
from musiq.errors import MusiqError, check_installed
from musiq.file_formats import CHECKPOINT_ENDINGS, ending_of
from musiq.hardware import available_cpus
from musiq.runtimes.base import Images, RuntimeOptions
from musiq.runtimes.batching import Feed
from musiq.runtimes.registry import open_runtime
from musiq.scoring.arithmetic import gflop
from musiq.spec import USUAL_SIZE, Spec
from musiq.terminal import Command
from musiq.timing import in_turns

from ..machine.peak_rate import PRODUCT_GFLOP, best_s, copy_rate, product, product_rate
from .sizes import Size, size_for, size_name, size_option

Node = tuple[str, str, float]
"""Kind of operator, name of the node, milliseconds in one call."""

Call = Callable[[Images], object]


@dataclass(frozen=True)
class Account:
    """For each kind of operator how many nodes there are and the milliseconds of one call; `wall_ms` of the whole call,
    with the account being kept. Medians over the calls."""

    spec: Spec
    kinds: dict[str, tuple[int, float]]
    wall_ms: float

    def table(self, work: float, most: int = 14) -> str:
        """A Markdown table, the costliest kinds first, and the rate of a whole call, which is `work` GFLOP."""
        total = sum(ms for _, ms in self.kinds.values())
        ordered = sorted(self.kinds.items(), key=lambda item: -item[1][1])
        rows = [(kind, nodes, ms) for kind, (nodes, ms) in ordered[:most]]
        if rest := [value for _, value in ordered[most:]]:
            rows.append((f"{len(rest)} other kinds", sum(nodes for nodes, _ in rest), sum(ms for _, ms in rest)))
        cells = [[kind, str(nodes), f"{ms:.1f}", f"{ms / total:.0%}"] for kind, nodes, ms in rows]
        return (
            f"{markdown.table(['operator', 'nodes', 'ms', 'share'], cells)}\n\n"
            f"{total:.0f} ms in operators, {self.wall_ms:.0f} ms a call: {work:.1f} GFLOP at "
            f"{work / self.wall_ms * 1e3:.0f} GFLOP/s."
        )


def account(
    path: Path, batch: int = 1, calls: int = 5, threads: int | None = None, size: Size | None = None
) -> Account:
    """Profile `calls` calls after one that is left out, a model for any size at `size`. Raises MusiqError for a file of
    which no runtime gives account."""
    ending = ending_of(path)
    if ending not in PROFILERS or not path.is_file():
        raise MusiqError(f"{path} cannot be profiled: give a file named *{', *'.join(PROFILERS)}.")
    return PROFILERS[ending](path, batch, calls, threads or available_cpus(), size)


def work_of(path: Path, spec: Spec, size: Size | None = None) -> float:
    """GFLOP for one image, of a model for any size at `size`: what the export counted in the simplified graph; for a
    checkpoint, or a file without such a record, what the formulas of the architecture say."""
    record = artifact.read_record(path)
    counted = record.details.gflop if record else None
    if not spec.any_size:
        return counted or gflop(spec)
    formula = gflop(spec.at(*size_for(spec, size)))
    return formula * counted / gflop(spec.at(*USUAL_SIZE)) if counted else formula  # which the export counts it at


def shares_of_product(
    path: Path, batch: int, calls: int, threads: int | None = None, size: Size | None = None
) -> list[float]:
    """The model's GFLOP/s to those of a large matrix product, once for each of `calls` calls. No account is kept, and each
    call is followed by products, so that a machine whose speed moves does not decide; the faster of two, because the
    threads of the call before may still be spinning beside the first."""
    multiply = product(threads or available_cpus())
    with closing(open_runtime(path, "cpu", threads)) as runtime:
        images = _noise(runtime.spec, batch, size)
        work = work_of(path, runtime.spec, size) * batch
        runtime(images)
        multiply()
        return [share_of_product(work, best_s(lambda: runtime(images), 1), best_s(multiply, 2)) for _ in range(calls)]


def share_of_product(work: float, call_s: float, product_s: float) -> float:
    """The rate of a call of `work` GFLOP to that of the product of PRODUCT_GFLOP, from their seconds."""
    return work / call_s / (PRODUCT_GFLOP / product_s)


def _onnx(path: Path, batch: int, calls: int, threads: int, size: Size | None) -> Account:
    from musiq.runtimes.onnxruntime import PlainSession, cpu_session, import_onnxruntime, session_options

    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(ort, threads)
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = cpu_session(ort, path, options)
        feed = Feed.from_metadata(session.get_modelmeta().custom_metadata_map, path)
        plain = PlainSession(session)
        walls = _timed(lambda images: feed.run(images, plain), feed.spec, batch, calls, size)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [
        (event["args"]["op_name"], event["name"], event["dur"] / 1000)
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    return _account(feed.spec, nodes, walls)


def _openvino(path: Path, batch: int, calls: int, threads: int, size: Size | None) -> Account:
    from musiq.runtimes.openvino import compile_for_cpu

    compiled, feed = compile_for_cpu(path, threads, PERF_COUNT=True)
    request = compiled.create_infer_request()
    nodes: list[Node] = []

    def infer(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        results = request.infer(arrays, share_inputs=True)
        nodes.extend(
            (node.node_type, node.node_name, node.real_time.total_seconds() * 1000) for node in request.profiling_info
        )
        return [results[output].copy() for output in compiled.outputs]

    walls = _timed(lambda images: feed.run(images, infer), feed.spec, batch, calls, size)
    return _account(feed.spec, [node for node in nodes if node[2]], walls)


def _pytorch(path: Path, batch: int, calls: int, threads: int, size: Size | None) -> Account:
    import torch

    from musiq.runtimes.pytorch import open_checkpoint

    runtime = open_checkpoint(path, RuntimeOptions("cpu", threads))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        walls = _timed(runtime.run, runtime.spec, batch, calls, size)
    kinds = {
        event.key: (event.count // (calls + 1), event.self_cpu_time_total / 1000 / (calls + 1))
        for event in profiler.key_averages()
    }
    return Account(runtime.spec, {kind: value for kind, value in kinds.items() if value[0]}, median(walls))


PROFILERS: dict[str, Callable[[Path, int, int, int, Size | None], Account]] = {
    ".onnx": _onnx,
    ".xml": _openvino,
    **dict.fromkeys(CHECKPOINT_ENDINGS, _pytorch),
}


def _timed(call: Call, spec: Spec, batch: int, calls: int, size: Size | None) -> list[float]:
    """Milliseconds of each call on the same images of noise, after one call that is not timed."""
    (seconds,) = in_turns([partial(call, _noise(spec, batch, size))], calls, warmup=1)
    return [1e3 * each for each in seconds]


def _noise(spec: Spec, batch: int, size: Size | None) -> Images:
    return np.random.default_rng(0).integers(0, 256, (batch, *size_for(spec, size), 3), np.uint8)


def _account(spec: Spec, nodes: Iterable[Node], walls: Sequence[float]) -> Account:
    """From every node of every call; the first time of each node is left out, as the first call is."""
    each: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kind, name, ms in nodes:
        each[kind, name].append(ms)
    count: Counter[str] = Counter(kind for kind, _ in each)
    ms_of: dict[str, float] = defaultdict(float)
    for (kind, _), times in each.items():
        ms_of[kind] += median(times[1:] or times)
    return Account(spec, {kind: (count[kind], ms) for kind, ms in ms_of.items()}, median(walls))


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@size_option("Of the images")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--calls", type=click.IntRange(1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(1), show_default="what this process may use")
def main(models: Sequence[Path], size: Size | None, batch: int, calls: int, threads: int | None) -> None:
    """Print where the time of MODELS goes on this CPU, by kind of operator: .onnx, .xml and checkpoints."""
    for path in models:
        if ending_of(path) in CHECKPOINT_ENDINGS:
            check_installed(("torch", "torchvision", "einops"), f"{path} is profiled in PyTorch and", "train")
    rate = product_rate(threads or available_cpus())
    click.echo(f"A large matrix product: {rate:.0f} GFLOP/s. Copying 256 MB on one core: {copy_rate():.0f} GB/s.")
    for path in models:
        found = account(path, batch, calls, threads, size)
        at = size_name(size_for(found.spec, size))
        work = work_of(path, found.spec, size) * batch
        click.echo(f"\n{path.name} at {at}, batch {batch}:\n\n{found.table(work)}")
        low, middle, high = np.percentile(shares_of_product(path, batch, calls, threads, size), [10, 50, 90])
        click.echo(
            f"In turns with a large matrix product, without the account: {middle:.0%} of its rate "
            f"({low:.0%}-{high:.0%}, {calls} calls)."
        )


if __name__ == "__main__":
    main()
