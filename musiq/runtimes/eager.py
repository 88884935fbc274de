"""A checkpoint in PyTorch: the reference that every artefact is compared with."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from musiq.errors import MusiqError
from musiq.runtimes import Images, Scores, check_images, cuda_index
from musiq.threads import available_cpus


class EagerRuntime:
    """PyTorch, fp32, TF32 off. Safe to call from several threads.

    `size` (height, width) is for pictures of another size than the checkpoint's own. `compiled` runs the model through
    torch.compile, whose compiler starts at the first call of each batch size.
    """

    def __init__(
        self,
        path: Path,
        device: str = "auto",
        threads: int | None = None,
        size: tuple[int, int] | None = None,
        compiled: bool = False,
    ) -> None:
        torch = set_up(path, threads)
        from musiq import checkpoint

        self._device = torch_device(device)
        self._model = checkpoint.load(path, *(size or ())).to(self._device)
        self._predict = torch.compile(self._model.predict, dynamic=False) if compiled else self._model.predict
        self.spec = self._model.spec
        self.provider = f"{'torch.compile' if compiled else 'PyTorch'} {self._device.type}"

    def __call__(self, images: Images) -> Scores:
        return self.run(images)["score"]

    def run(self, images: Images) -> dict[str, Scores]:
        import torch

        check_images(images, self.spec)
        with torch.inference_mode():
            outputs = self._predict(torch.from_numpy(images).to(self._device))
            return dict(zip(("score", "shares"), (output.cpu().numpy() for output in outputs), strict=False))

    def close(self) -> None:
        del self._model, self._predict


def set_up(path: Path, threads: int | None) -> ModuleType:
    """PyTorch, with its threads set and TF32 off: "fp32" is fp32 in every runtime."""
    try:
        import torch
        import torchvision  # noqa: F401, a checkpoint's trunk needs it
    except ImportError as problem:
        raise MusiqError(
            f"{path} needs PyTorch ({problem}): pip install 'musiq[train]', or score an ONNX export of it."
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
