"""A checkpoint in PyTorch: the reference that every artefact is compared with."""

from __future__ import annotations

from pathlib import Path

from musiq.errors import MusiqError
from musiq.runtimes import Images, Scores, check_images, cuda_index
from musiq.threads import available_cpus


class EagerRuntime:
    """PyTorch, fp32, TF32 off. Safe to call from several threads."""

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        try:
            import torch

            from musiq import checkpoint
        except ImportError as problem:
            raise MusiqError(
                f"{path} is a checkpoint and needs PyTorch ({problem}): pip install 'musiq[train]', "
                "or score an exported model."
            ) from problem
        torch.set_num_threads(threads or available_cpus())
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._device = _device(device)
        self._model = checkpoint.load(path).to(self._device)
        self.spec = self._model.spec
        self.provider = f"PyTorch {self._device.type}"

    def __call__(self, images: Images) -> Scores:
        return self.run(images)["score"]

    def run(self, images: Images) -> dict[str, Scores]:
        import torch

        check_images(images, self.spec)
        with torch.inference_mode():
            outputs = self._model.predict(torch.from_numpy(images).to(self._device))
            return dict(zip(("score", "shares"), (output.cpu().numpy() for output in outputs), strict=False))

    def close(self) -> None:
        del self._model


def _device(device: str):  # type: ignore[no-untyped-def]  # torch.device, without importing torch here
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
