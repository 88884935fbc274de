"""Engines for TensorRT and for TensorRT for RTX: ONNX, parsed, typed as the graph says, built and written as they are."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiq import files
from musiq.artifact import Details, Int8Details
from musiq.errors import MusiqError
from musiq.runtimes import cuda
from musiq.runtimes.tensorrt import TITLES, import_tensorrt, make_logger
from musiq.spec import USUAL_SIZE
from musiq.terminal import progress_bar

from ..request import BatchRange, Built, Request, feed, versions
from . import onnx as onnx_builder
from .tensorrt_layers import check_engine, check_network, engine_layers, network_layers
from .tensorrt_turing import TURING, halve_products

if TYPE_CHECKING:
    import onnx

RTX_TARGETS = (75, 80, 86, 89, 120, 121)
"""Compute capabilities that TensorRT for RTX builds for: its `ComputeCapability`, 1.4 and newer."""

DEFAULT_GPUS = (80, 86, 89, 120)
"""TensorRT for RTX's own default. Turing (75) is left out: it costs the others speed, and has fp16 alone."""

NO_LIMIT = 16
"""Largest batch of an engine where none was given: a profile needs one, and memory is reserved for it."""

NO_LIMIT_OF_PATCHES = 4
"""The same of an engine of patches, whose images may be large: about as many patches as NO_LIMIT images of 1024x768."""

TOKENS = 16, 4096
"""Fewest and most tokens of an image, class token included, where none were given: Full HD has 2,153."""


def parse_gpus(text: str) -> tuple[int, ...]:
    """ "75,86,89,120" as numbers. Raises MusiqError for one that TensorRT for RTX has no target for."""
    known = ", ".join(map(str, RTX_TARGETS))
    gpus = []
    for part in text.split(","):
        number = part.strip().lower().removeprefix("sm").replace(".", "")
        if not number.isdigit() or int(number) not in RTX_TARGETS:
            raise MusiqError(
                f"--gpus {part.strip()!r} is no target of TensorRT for RTX; they are {known} (compute capabilities "
                "without the dot). For data-centre GPUs such as H100 (90) use --format trt on a machine that has one."
            )
        gpus.append(int(number))
    return tuple(dict.fromkeys(gpus))


def check_possible(request: Request, package: str) -> None:
    """Say before any work what cannot be built here. Raises MusiqError with what to do instead."""
    if package == "tensorrt":
        if reason := cuda.why_no_gpu():
            raise MusiqError(
                f"trt builds for the GPU in the machine, and there is none to use: {reason}. Use --format trt-rtx, "
                "which builds without a GPU (RTX 20 to 50, A100), or --format onnx, or run this where the GPU is."
            )
        return
    if request.engine.compatible:
        raise MusiqError(
            "trt-rtx has no --compatible: its engines run on all their --gpus, in the version that built them."
        )
    if TURING in gpus_of(request) and request.precision != "fp16":
        raise MusiqError(
            f"TensorRT for RTX builds for Turing (--gpus 75) in fp16 alone, not in {request.precision}: "
            "use --precision fp16, or leave 75 out."
        )


def gpus_of(request: Request) -> tuple[int, ...]:
    """Those asked for, or TensorRT for RTX's own default."""
    return request.engine.gpus or DEFAULT_GPUS


def limited(batch: BatchRange, no_limit: int = NO_LIMIT) -> BatchRange:
    """A range that an engine can have: largest and best within limits."""
    largest = batch.largest or max(no_limit, batch.smallest)
    return BatchRange(batch.smallest, largest, min(max(batch.best, batch.smallest), largest))


def limited_tokens(request: Request) -> tuple[int, int]:
    """The numbers of tokens that an engine is made for; those of the request where its inputs are no patches."""
    fewest, most = request.tokens
    if most or not feed(request).takes_patches:
        return request.tokens
    return max(fewest, TOKENS[0]), max(fewest, TOKENS[1])


def build(request: Request, path: Path, package: str) -> Built:
    """Write an engine, which trtexec and Triton read too.

    Args:
        request: What is asked for.
        path: Of the engine.
        package: "tensorrt", for the GPU in this machine, or "tensorrt_rtx", for those of `EngineOptions.gpus`.

    Returns:
        What is inside, and why it is unverified where this machine cannot run it.

    Raises:
        MusiqError: With TensorRT's own words if it cannot be parsed or built, or is another precision inside.
    """
    trt = import_tensorrt(package)
    check_possible(request, package)
    gpus = gpus_of(request) if package == "tensorrt_rtx" else ()
    batch = limited(request.batch, NO_LIMIT_OF_PATCHES if feed(request).takes_patches else NO_LIMIT)
    tokens = limited_tokens(request)
    request = replace(request, engine=replace(request.engine, gpus=gpus), tokens=tokens)
    model, int8 = onnx_builder.to_onnx(request, symmetric=True)  # zero points of 0, the only kind there is here
    if TURING in gpus:
        halve_products(model)
    log = make_logger(trt)
    builder = _made(trt.Builder(log), "builder", log)
    network, parser = parse(trt, builder, model, log)
    layers = network_layers(network)
    check_network(layers, request)
    config = configure(trt, builder, request, package, log)
    add_profile(builder, network, config, request, batch, log)
    with timing_cache(trt, config, request, package):
        plan = serialise(trt, builder, network, config, TITLES[package], log)
    del parser  # its weights were the network's until here
    path.write_bytes(plan)
    unverified = why_unverified(request, package)
    if not unverified:
        finished = inspect(trt, plan, log)
        check_engine(finished, request)
        layers = finished or layers
    made_with = {**versions("torch", "onnx", "onnxscript"), package: trt.__version__}
    details = details_of(request, batch, int8)
    return Built(layers, made_with, details, unverified=unverified, batch=batch)


def details_of(request: Request, batch: BatchRange, int8: Int8Details | None) -> Details:
    """What the record says of an engine; where the request names no GPUs it is the one in this machine."""
    gpus = request.engine.gpus
    return Details(
        opset=request.opset,
        gpus=gpus or (cuda.find("auto").capability,),
        compatible=request.engine.compatible,
        profile=(batch.smallest, batch.best, batch.largest),
        tokens=request.tokens if feed(request).takes_patches else None,
        pyramid_precision="fp16" if TURING in gpus and request.inputs == "image" else "",
        int8=int8,
    )


def why_unverified(request: Request, package: str) -> str:
    """Why this machine cannot run the engine that it built; empty where it can."""
    if reason := cuda.why_no_gpu():
        return reason
    found = cuda.find("auto")
    if package == "tensorrt_rtx" and found.capability not in gpus_of(request):
        targets = ", ".join(f"SM{target}" for target in gpus_of(request))
        return f"{found.name} (SM{found.capability}) is none of its targets {targets}"
    return ""


def parse(trt: Any, builder: Any, model: onnx.ModelProto, log: Any) -> tuple[Any, Any]:
    """The strongly typed network of the ONNX graph, and the parser, which owns its weights."""
    # TensorRT 11 knows only strongly typed networks, and takes the flag all the same.
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = _made(builder.create_network(flag), "network", log)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.SerializeToString()):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reason = "; ".join(
            f"{error.desc()} (node {error.node_name()!r}, {error.node_operator()})" for error in errors[:3]
        )
        raise MusiqError(
            f"{trt.__name__} {trt.__version__} cannot read the ONNX graph of opset {model.opset_import[0].version}: "
            f"{reason or log.reason()}. Try another --opset, or a newer version."
        )
    return network, parser


def configure(trt: Any, builder: Any, request: Request, package: str, log: Any) -> Any:
    config = _made(builder.create_builder_config(), "configuration", log)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector can name types
    if not request.engine.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default: "fp32" is fp32 in every runtime
    if package == "tensorrt_rtx":
        _set_targets(trt, config, request, log)
    elif request.engine.compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    return config


def add_profile(builder: Any, network: Any, config: Any, request: Request, batch: BatchRange, log: Any) -> None:
    """Where the batch or the number of tokens is dynamic: their values, for each input."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    if all(size >= 0 for tensor in inputs for size in tensor.shape):
        return
    profile = builder.create_optimization_profile()
    for tensor in inputs:
        shapes = [
            (images, *feed(request).shapes(tokens)[tensor.name])
            for images, tokens in zip((batch.smallest, batch.best, batch.largest), token_profile(request), strict=True)
        ]
        profile.set_shape(tensor.name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise _failure("the optimisation profile", log)


def token_profile(request: Request) -> tuple[int, int, int]:
    """The fewest, the best (those of a usual image) and the most tokens."""
    (fewest, most), spec = request.tokens, request.model.spec
    usual = spec.at(*USUAL_SIZE).tokens if spec.any_size else spec.tokens
    return fewest, min(max(fewest, usual), most), most


def _set_targets(trt: Any, config: Any, request: Request, log: Any) -> None:
    gpus = gpus_of(request)
    config.num_compute_capabilities = len(gpus)
    for index, number in enumerate(gpus):
        target = getattr(trt.ComputeCapability, f"SM{number}", None)
        if target is None or not config.set_compute_capability(target, index):
            raise MusiqError(
                f"TensorRT for RTX {trt.__version__} cannot build for SM{number}. Leave it out of --gpus, or "
                "pip install --upgrade tensorrt-rtx."
            )


def serialise(trt: Any, builder: Any, network: Any, config: Any, title: str, log: Any) -> Any:
    """The built engine, as bytes in TensorRT's memory. Ctrl-C stops the build at its next step."""
    # A bar without an end: TensorRT says too little of its progress, most of a build is one silent step.
    with interrupts_noted() as interrupted, progress_bar(f"{title}: building") as bar:
        config.progress_monitor = make_monitor(trt, lambda phase: bar.tell(title=f"{title}: {phase}"), interrupted)
        plan = builder.build_serialized_network(network, config)
    if interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise _failure("the engine", log)
    return plan


def inspect(trt: Any, plan: Any, log: Any) -> dict[str, int]:
    """The layers of a finished engine, which needs its GPU."""
    runtime = trt.Runtime(log)
    runtime.engine_host_code_allowed = True  # we have just built it
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise _failure("the built engine for inspection", log)
    inspector = engine.create_engine_inspector()
    return engine_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def make_monitor(trt: Any, show: Callable[[str], None], interrupted: list[int]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Shows the phases of a build, and stops it once there was an interrupt."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            show(phase[0].lower() + phase[1:])

        def phase_finish(self, phase: str) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:
            return not interrupted

    return Monitor()


@contextmanager
def interrupts_noted() -> Iterator[list[int]]:
    """While C++ works, Ctrl-C (and a SIGTERM that is treated so) is noted and not raised: TensorRT swallows what is
    raised in its callbacks, and the build would go on to its end as if nothing had been asked."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    raising = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    handlers = {number: signal.getsignal(number) for number in raising}
    try:
        for number in raising:
            signal.signal(number, lambda number, _: noted.append(number))
        yield noted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def timing_cache(trt: Any, config: Any, request: Request, package: str) -> Iterator[None]:
    """Kernel timings of earlier builds on this GPU, kept for later ones. TensorRT for RTX measures nothing."""
    if package == "tensorrt_rtx":
        yield
        return
    chosen = request.engine.timing_cache
    path = chosen or cache_file(trt.__version__, cuda.find("auto").capability)
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):  # of another version or GPU: begin anew
        config.set_timing_cache(config.create_timing_cache(b""), False)
    yield
    try:
        with files.atomic_write(path) as part:
            part.write_bytes(config.get_timing_cache().serialize())
    except MusiqError:  # costs later builds time, not this engine
        if chosen:
            raise


def cache_file(version: str, capability: int) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "musiq" / f"tensorrt-{version}-sm{capability}.timing"


def _made(thing: Any, name: str, log: Any) -> Any:
    if thing is None:
        raise _failure(f"a {name}", log)
    return thing


def _failure(what: str, log: Any) -> MusiqError:
    return MusiqError(f"TensorRT could not make {what}: {log.reason()}. Try another --precision or a smaller --batch.")
