"""`Metric`, what `musiq.create_metric` gives, and `MUSIQ`, the same for code that was written for pyiqa's class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from musiq.bundled import NAME
from musiq.errors import ImageError, MusiqError, one_line
from musiq.images.decode import decode
from musiq.model import checkpoint
from musiq.published import checkpoint_path
from musiq.runtimes.pytorch import torch_device
from musiq.scoring.plan import policy_for
from musiq.spec import Spec
from musiq.torch_metric.resize import resized_as_files_are, resized_with_gradient
from musiq.torch_metric.tensors import check_layout, check_values

Image = Tensor | str | Path


class Metric(nn.Module):
    """MUSIQ over float images in [0, 1]: `metric(images)` gives their scores.

    Weights are frozen, and arithmetic is fp32 in eval mode, also under autocast and where a module around this one trains;
    `metric.double()` makes it float64.

    Attributes:
        lower_better: False: a higher score is a better image.
        spec: What the model is; `spec.target` says what it was trained to predict.
        resize: The resize policy in force: "native", "cover", "longer=512".
        as_loss: Whether gradients reach the images.
    """

    lower_better = False

    def __init__(self, model: str | Path, *, as_loss: bool = False, resize: str | None = None) -> None:
        """Load a checkpoint, on the CPU; `.to(device)` moves it.

        Args:
            model: The path of a checkpoint: this project's, pyiqa's, the original's; or a published one's name, such as
                "musiq-koniq".
            as_loss: Whether gradients reach the images; values outside [0, 1] pass then.
            resize: As of `musiq.load`; None for what the model brings.

        Raises:
            MusiqError: There is no such checkpoint, it cannot be had, or there is no such policy for it.
        """
        super().__init__()
        self.model = checkpoint.load(checkpoint_path(Path(model))).requires_grad_(False)
        self._policy = policy_for(resize, self.model.spec, str(model))
        self.spec: Spec = self.model.spec
        self.resize = str(self._policy)
        self.as_loss = as_loss

    @property
    def score_range(self) -> tuple[float, float] | None:
        """(worst, best) as the training target defines it, None if unknown; a model can leave it slightly."""
        return self.spec.score_range

    def train(self, mode: bool = True) -> Metric:
        """As of every module; the network stays in eval mode, as its score must not depend on the rest of a batch."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, images: Image | Sequence[Image]) -> Tensor:
        """Score images.

        Args:
            images: RGB, (N, 3, H, W) of floats in [0, 1], of any height and width; the path of a file; or a list of those
                and of (3, H, W), whose sizes may differ. What reaches 0.001 beyond [0, 1] is clamped, unless this is a
                loss.

        Returns:
            float (N,), in the order of the images, in the units of `spec.target`, on the metric's device.

        Raises:
            ImageError: A file cannot be read.
            MusiqError: A tensor is of another layout or kind, or, unless this is a loss, its values are outside [0, 1].
        """
        if isinstance(images, str | bytes) or not isinstance(images, Iterable) or hasattr(images, "shape"):
            return self._scores(cast(Image, images))
        if not (images := list(images)):
            raise MusiqError("There are no images to score; expected (N, 3, H, W), a path, or a list of at least one.")
        return torch.cat([self._scores(image, in_list=True) for image in images])

    def _scores(self, image: Image, in_list: bool = False) -> Tensor:
        like = self.model.embed.class_token
        with torch.set_grad_enabled(self.as_loss and torch.is_grad_enabled()), _in_fp32(like.device):
            return self.model.predict(self._pixels(image, in_list).to(like).permute(0, 2, 3, 1))[0]

    def _pixels(self, image: Image, in_list: bool) -> Tensor:
        """(N, 3, H, W) as the model sees them, in [0, 255]."""
        if isinstance(image, str | Path):
            try:
                pixels = torch.from_numpy(decode(image)).permute(2, 0, 1)[None]
            except ImageError as problem:
                raise ImageError(f"{image}: {problem}") from problem
            return resized_as_files_are(pixels, self.spec, self._policy)
        image = check_layout(image, in_list)
        like = self.model.embed.class_token
        if self.as_loss:
            return resized_with_gradient(image.to(like) * 255, self.spec, self._policy)
        check_values(image)
        return resized_as_files_are(image.to(like).clamp(0, 1) * 255, self.spec, self._policy)


class MUSIQ(Metric):
    """`Metric` under the name, and with the shape of result, that code written for pyiqa's `MUSIQ` has.

    So VBench's imaging quality and its copies change one import: `MUSIQ(pretrained_model_path=FILE)`, `.to(device)`,
    called on (N, 3, H, W) in [0, 1].
    """

    def __init__(self, pretrained_model_path: str | Path, *, as_loss: bool = False, resize: str | None = None) -> None:
        """Load a checkpoint, on the CPU.

        Args:
            pretrained_model_path: As `model` of `Metric`.
            as_loss: As of `Metric`.
            resize: As of `Metric`.

        Raises:
            MusiqError: As of `Metric`.
        """
        super().__init__(pretrained_model_path, as_loss=as_loss, resize=resize)

    def forward(self, images: Image | Sequence[Image]) -> Tensor:
        """As of `Metric`, but (N, 1)."""
        return super().forward(images)[:, None]


def create_metric(
    model: str | Path | None = None,
    device: str | torch.device = "auto",
    *,
    as_loss: bool = False,
    resize: str | None = None,
) -> Metric:
    """`musiq.create_metric`, which see."""
    where = _device(device)
    metric = Metric(NAME if model is None else model, as_loss=as_loss, resize=resize)
    try:
        return metric.to(where)
    except (RuntimeError, AssertionError, ImportError) as problem:  # each kind of device fails in its own way
        raise MusiqError(f"The model cannot go to {where} ({one_line(problem)}). Give auto, cpu or cuda.") from problem


def _device(device: str | torch.device) -> torch.device:
    name = str(device)
    if name in ("auto", "cpu", "cuda") or (name.startswith("cuda:") and name[5:].isdecimal()):
        found: torch.device = torch_device(name)
        return found
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as problem:
        raise MusiqError(
            f"There is no device {device!r}; expected auto, cpu, cuda, cuda:0 (any number) or another of PyTorch's."
        ) from problem


@contextmanager
def _in_fp32(device: torch.device) -> Iterator[None]:
    """Autocast and TF32 off inside, and afterwards as they were: scores would differ by more than rounding."""
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
        before = products.allow_tf32, convolutions.allow_tf32
        products.allow_tf32 = convolutions.allow_tf32 = False
        try:
            yield
        finally:
            products.allow_tf32, convolutions.allow_tf32 = before
