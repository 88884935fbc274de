"""Weights and images that anyone can rebuild bit for bit, so that scores of other implementations can be quoted.

The golden scores in test_checkpoint.py were made by pyiqa 0.1.16, the published ResNet-50 reimplementation, and the
original preprocessing and arithmetic in TensorFlow and JAX, all holding exactly these weights on exactly these images.
A weight depends on its name, so that a tensor looked up under a wrong name cannot give a right score.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

EMBEDDINGS = ("embedding", "position_emb", "scale_emb", "cls")


def _draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.random.Generator(np.random.PCG64([0, zlib.crc32(name.encode())])).standard_normal(shape)


def torch_weight(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """A tensor of a PyTorch checkpoint."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    values = _draw(name, shape)
    embedding = (
        any(part in name for part in EMBEDDINGS) and "embedding.weight" not in name and "embedding.bias" not in name
    )
    if leaf == "running_var":
        values = 1 + 0.1 * np.abs(values)
    elif leaf == "running_mean":
        values = 0.1 * values
    elif embedding:
        pass
    elif len(shape) == 1:
        values = 0.7 + 0.1 * values if leaf == "weight" else 0.05 * values
    else:
        values = 2.0 * values / np.sqrt(np.prod(shape[1:]))
    return values.astype(np.float32)


def flax_weight(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """A tensor of a Flax checkpoint: kernels have their output axes last."""
    values = _draw(name, shape)
    *_, module, leaf = name.split("/")
    if leaf == "kernel":
        outputs = 2 if module in ("query", "key", "value") else 1
        values = 2.0 * values / np.sqrt(np.prod(shape[:-outputs]))
    elif leaf == "scale":
        values = 0.7 + 0.1 * values
    elif leaf == "bias":
        values = 0.05 * values
    return values.astype(np.float32)


def photo(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """uint8 (height, width, 3): blocks of four sizes, box-blurred, in integer arithmetic alone."""
    draw = np.random.Generator(np.random.PCG64(seed))
    total = np.zeros((height, width, 3), np.int64)
    weights = draw.integers(0, 8, size=4) + np.array([1, 0, 0, 0])
    for block, weight in zip((128, 32, 8, 1), weights, strict=True):
        coarse = draw.integers(0, 256, size=(-(-height // block), -(-width // block), 3))
        total += weight * coarse.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]
    total //= weights.sum()
    contrast, brightness = draw.integers(4, 48), draw.integers(40, 216, size=3)
    total = np.clip((total - 128) * contrast // 16 + brightness, 0, 255)
    padded = np.pad(total, ((1, 1), (1, 1), (0, 0)), mode="edge")
    near = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return (sum(near) // 9).astype(np.uint8)


def lively_model(preset: str, **changes: Any) -> Any:
    """A Musiq of `preset` whose random weights are large enough that images differ in score."""
    import dataclasses

    import torch

    from musiq.model.network import Musiq
    from musiq.presets import PRESETS

    model = Musiq(dataclasses.replace(PRESETS[preset], **changes)).eval()
    state = model.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            value.copy_(torch.from_numpy(torch_weight(name, tuple(value.shape))))
    return model
