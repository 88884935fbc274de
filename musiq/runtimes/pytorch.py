"""Runs checkpoints, the reference of every artifact, and TorchScript and .pt2 artifacts in PyTorch."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from musiq.errors import MusiqError, one_line, pip_install
from musiq.hardware import available_cpus, cuda_index, is_x86
from musiq.runtimes.base import Images, RuntimeOptions, Scores, check_device
from musiq.runtimes.batching import KEYS, PRECISION, Feed
from musiq.runtimes.concurrency import IN_FLIGHT, Pool, not_closed


class TorchRuntime:
    """PyTorch, TF32 off: `module(*tensors)` gives a tuple of tensors. Safe to call from several threads: on a CPU all at
    once, on a GPU two at a time, each on a stream of its own."""

    def __init__(self, module: Callable[..., Any], feed: Feed, device: Any, name: str) -> None:
        import torch

        self._feed, self._device = feed, device
        self._module: Callable[..., Any] | None = module
        on_gpu = device.type == "cuda"
        self._streams = Pool([torch.cuda.Stream(device) for _ in range(IN_FLIGHT)]) if on_gpu else None
        self.spec = feed.spec
        self.provider = f"{name} {device.type}"
        self.in_flight = IN_FLIGHT if on_gpu else 1
        self.default_batch = feed.default_batch(None if on_gpu else torch.get_num_threads())
        self.call_shares = self._feed.call_shares

    def __call__(self, images: Images | Sequence[Images]) -> Scores:
        return self.run(images)["score"]

    def run(self, images: Images | Sequence[Images]) -> dict[str, Scores]:
        return self._feed.run(images, self._call)

    def _call(self, arrays: list[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        import torch

        module = not_closed(self._module)
        with torch.inference_mode():
            if self._streams is None:
                return _numpy(module(*(torch.from_numpy(array) for array in arrays)))
            with self._streams.one() as stream, torch.cuda.stream(stream):
                # From pinned memory a copy runs beside the other stream's work.
                pinned = [torch.from_numpy(array).pin_memory() for array in arrays]
                return _numpy(module(*(tensor.to(self._device, non_blocking=True) for tensor in pinned)))

    def close(self) -> None:
        """On a GPU, waits for the calls that run; PyTorch keeps freed GPU memory to itself unless it is told to let go."""
        self._module = None
        if self._streams is not None and self._streams.close():
            import torch

            torch.cuda.empty_cache()


class Compiled:
    """A module through torch.compile, which makes code for one batch size at a time and takes half a minute for it: a
    batch is filled up to the next size that is there, as the last one of a folder."""

    def __init__(self, module: Callable[..., Any]) -> None:
        import torch

        self._run = torch.compile(module, dynamic=False)
        self._sizes: set[int] = set()

    def __call__(self, *tensors: Any) -> tuple[Any, ...]:
        count = len(tensors[0])
        size = min((known for known in tuple(self._sizes) if known >= count), default=count)
        self._sizes.add(size)
        if size > count:
            # Its last image again, which a gather repeats: a plain expand has strides that are compiled anew.
            tensors = tuple(tensor[[*range(count), *[count - 1] * (size - count)]] for tensor in tensors)
        return tuple(output[:count] for output in self._run(*tensors))


def _compiled(module: Callable[..., Any], feed: Feed, path: Path) -> Compiled:
    """Raises MusiqError for a model for any size, whose every new size would take half a minute."""
    if feed.has_open_sizes:
        raise MusiqError(
            f"{path.name} takes images of any size, and torch.compile makes code for one: run it without, or take a model "
            "for one size (musiq-export --size 1024x768)."
        )
    return Compiled(module)


def _numpy(outputs: Sequence[Any]) -> list[NDArray[Any]]:
    return [output.float().cpu().numpy() for output in outputs]


def open_checkpoint(
    path: Path,
    options: RuntimeOptions,
    *,
    height: int | None = None,
    width: int | None = None,
    any_size: bool = False,
    compiled: bool = False,
    precision: str = "fp32",
) -> TorchRuntime:
    """A checkpoint of any known layout, run eagerly.

    Args:
        path: The checkpoint.
        options: Its device may be "cuda-compile:0", which implies `compiled`.
        height: Pixels of the images' height; None for the checkpoint's own, which may be any.
        width: Pixels of the images' width; None for the checkpoint's own, which may be any.
        any_size: For images of any size, whatever the checkpoint was trained for.
        compiled: Through torch.compile.
        precision: "fp32", or "fp16" or "bf16" for the weights and all that `in_precision` casts.

    Raises:
        MusiqError: PyTorch is not installed, the device is not there, the file is no checkpoint, or a model for any size is
            to be compiled.
    """
    check_device(options.device, path)
    set_up(path, options.threads)
    from musiq.model import checkpoint
    from musiq.model.half_precision import in_precision

    device = torch_device(options.device)
    compiled = compiled or options.device.startswith("cuda-compile")
    model = checkpoint.load(path, height, width, any_size=any_size)
    model = (in_precision(model, precision) if precision != "fp32" else model).to(device)
    feed = Feed(model.spec)
    predict = _compiled(model.predict, feed, path) if compiled else model.predict
    return TorchRuntime(predict, feed, device, "torch.compile" if compiled else "PyTorch")


def open_torchscript(path: Path, options: RuntimeOptions) -> TorchRuntime:
    """A .torchscript artifact. Raises MusiqError for one that this PyTorch cannot open."""
    torch = set_up(path, options.threads)
    device, extra = torch_device(options.device), dict.fromkeys(KEYS, "")
    _check_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated: known, and still asked for
            module = torch.jit.load(str(path), map_location=device, _extra_files=extra)
    except RuntimeError as problem:
        raise _broken(path, problem) from problem
    _warn_if_slow(path, _texts(extra)[PRECISION], device)
    return TorchRuntime(module, Feed.from_metadata(_texts(extra), path), device, "TorchScript")


def open_pt2(path: Path, options: RuntimeOptions) -> TorchRuntime:
    """A .pt2 artifact, on "cuda-compile:0" through torch.compile. Raises MusiqError for one that this PyTorch cannot
    open."""
    torch = set_up(path, options.threads)
    device, extra = torch_device(options.device), dict.fromkeys(KEYS, "")
    _check_zip(path)
    try:
        program = torch.export.load(str(path), extra_files=extra)
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        module = program.module()
    except Exception as problem:  # whatever deserialising runs into, none of it a documented type
        raise _broken(path, problem) from problem
    feed = Feed.from_metadata(_texts(extra), path)
    _warn_if_slow(path, _texts(extra)[PRECISION], device)
    if not options.device.startswith("cuda-compile"):
        return TorchRuntime(module, feed, device, "torch.export")
    return TorchRuntime(_compiled(module, feed, path), feed, device, "torch.export compiled")


def _warn_if_slow(path: Path, precision: str, device: Any) -> None:
    """Warn of half precision on an x86 CPU for which PyTorch has no products in it, so that it emulates them."""
    import torch

    if device.type != "cpu" or not is_x86():
        return
    is_fast = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", lambda: True)
    if not is_fast():
        warnings.warn(
            f"{path} is {precision}, for which PyTorch takes several times as long as for fp32 on this CPU, which has no "
            "instructions for it: score an export in fp32 here",
            stacklevel=4,
        )


def set_up(path: Path, threads: int | None) -> ModuleType:
    """PyTorch, with its threads set and TF32 off: "fp32" is fp32 in every runtime."""
    try:
        import torch
        import torchvision  # noqa: F401, a checkpoint's trunk needs it
    except ImportError as problem:
        raise MusiqError(
            f"{path} needs PyTorch ({problem}): {pip_install('train')}, or score an ONNX export of it."
        ) from problem
    torch.set_num_threads(threads or available_cpus())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch


def torch_device(device: str) -> Any:
    """The torch.device for "auto", "cpu" or "cuda:0". Raises MusiqError for a GPU that PyTorch does not see."""
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    index = cuda_index(device)
    if index >= torch.cuda.device_count():
        raise MusiqError(
            f"There is no {device}: PyTorch sees {torch.cuda.device_count()} CUDA devices. "
            "Check the driver with nvidia-smi, or use --device cpu."
        )
    return torch.device("cuda", index)


def _check_zip(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise _broken(path, "it is no zip archive")


def _texts(extra: dict[str, Any]) -> dict[str, str]:
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in extra.items() if value}


def _broken(path: Path, problem: Exception | str) -> MusiqError:
    return MusiqError(f"{path} cannot be opened by this PyTorch ({one_line(problem, 200)}). Export it again.")
