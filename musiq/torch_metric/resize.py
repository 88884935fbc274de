"""The resize policies on tensors: to the pixels that `musiq-score` makes of the same image, or so that gradients pass."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import center_crop

from musiq.images.fit import VBENCH, Resize
from musiq.images.vbench import vbench_size
from musiq.pyramid import resize_matrix
from musiq.spec import Spec


def resized_as_files_are(images: Tensor, spec: Spec, policy: Resize) -> Tensor:
    """By the code that resizes files, whose pixels are whole numbers: what it has to change is rounded to them.

    Args:
        images: (N, 3, H, W) in [0, 255], of any type and on any device.
        spec: The model's.
        policy: As of `musiq.scoring.plan.policy_for`.

    Returns:
        (N, 3, h, w) in [0, 255]: the images themselves where the policy leaves them as they are.
    """
    size = images.shape[2], images.shape[3]
    wanted = spec.fixed_size if policy.kind == "cover" else policy.size(*size)
    if wanted == size:
        return images
    pixels = images.round().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    made = np.stack([policy.apply(image, *wanted)[0] for image in pixels])
    return torch.from_numpy(made).permute(0, 3, 1, 2).to(images.device)


def resized_with_gradient(images: Tensor, spec: Spec, policy: Resize) -> Tensor:
    """By the same kernels as two matrix products, so that gradients pass; pixels are not rounded to whole numbers.

    Args:
        images: (N, 3, H, W), floats.
        spec: The model's.
        policy: As of `musiq.scoring.plan.policy_for`.

    Returns:
        (N, 3, h, w), floats: the images themselves where the policy leaves them as they are.
    """
    height, width = images.shape[2:]
    if policy.kind in VBENCH:
        whole, seen = vbench_size(VBENCH[policy.kind], height, width), policy.size(height, width)
        images = F.interpolate(images, whole, mode="bilinear") if whole != (height, width) else images
        return center_crop(images, list(seen)) if seen != whole else images
    if policy.kind != "cover":
        return _resized(images, *policy.size(height, width))
    rows, columns = spec.fixed_size
    ratio = max(rows / height, columns / width)
    images = _resized(images, max(rows, round(height * ratio)), max(columns, round(width * ratio)))
    top, left = (images.shape[2] - rows) // 2, (images.shape[3] - columns) // 2
    return images[:, :, top : top + rows, left : left + columns]


def _resized(images: Tensor, rows: int, columns: int) -> Tensor:
    height, width = images.shape[2:]
    if (rows, columns) == (height, width):
        return images
    shrinks = max(rows, columns) < max(height, width)
    matrices = [_matrix(*sides, shrinks) for sides in ((height, rows), (width, columns))]
    down, across = (torch.from_numpy(matrix).to(images) for matrix in matrices)
    return down @ images @ across.T


def _matrix(inputs: int, outputs: int, shrinks: bool) -> NDArray[np.float64]:
    """(outputs, inputs), as cv2.INTER_AREA (each output the mean of what it covers) or cv2.INTER_CUBIC."""
    if not shrinks:
        return resize_matrix(inputs, outputs, "cubic")
    edges = np.arange(outputs + 1) * (inputs / outputs)
    place = np.arange(inputs)
    covered = np.minimum(edges[1:, None], place + 1) - np.maximum(edges[:-1, None], place)
    return covered.clip(min=0) * (outputs / inputs)
