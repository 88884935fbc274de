"""VBench's preprocessing: torchvision's pixels, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision import transforms

from musiq.images.fit import VBENCH, Resize
from tests.recipe import photo

MODES = {"vbench": "longer", "vbench-shorter": "shorter", "vbench-shorter-centercrop": "shorter_centercrop"}


def torchvisions(image: np.ndarray, mode: str) -> np.ndarray:
    """What VBench's code does to a video's frames, uint8 (T, C, H, W), for one frame."""
    frames: Any = torch.from_numpy(image).permute(2, 0, 1)[None]
    height, width = image.shape[:2]
    side = max(height, width) if mode == "longer" else min(height, width)
    if side > 512:
        scale = 512.0 / side
        frames = transforms.Resize(size=(int(scale * height), int(scale * width)), antialias=False)(frames)
        if mode == "shorter_centercrop":
            frames = transforms.CenterCrop(512)(frames)
    found: np.ndarray = frames[0].permute(1, 2, 0).numpy()
    return found


def sizes() -> list[tuple[int, int]]:
    """197 random ones; 720p; and such that a side comes out as 511, as 512 / side * side is a little less than 512."""
    some = np.random.default_rng(24).integers(24, 1000, (197, 2)).tolist()
    return [*((height, width) for height, width in some), (720, 1280), (561, 700), (900, 569)]


def test_pixels_are_torchvisions_at_200_sizes() -> None:
    draw, differ, total, resized = np.random.default_rng(25), 0, 0, 0
    for number, (height, width) in enumerate(sizes()):
        policy = list(VBENCH)[number % 3] if number < 197 else "vbench-shorter-centercrop"
        image = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = torchvisions(image, MODES[policy])
        parsed = Resize.parse(policy)
        seen = parsed.size(height, width)
        found, said = parsed.apply(image, *seen)
        assert found.shape == (*seen, 3) == expected.shape
        apart = np.abs(found.astype(int) - expected)
        assert apart.max() <= 1, (height, width, policy)
        assert (apart > 0).mean() <= 1e-3, (height, width, policy)
        assert bool(said) == (expected.shape != image.shape or bool((expected != image).any()))
        differ, total, resized = differ + int((apart > 0).sum()), total + apart.size, resized + bool(said)
    assert resized > 60
    assert differ <= 1e-4 * total


def test_the_row_of_black_that_torchvision_adds_is_added_too() -> None:
    found, said = Resize.parse("vbench-shorter-centercrop").apply(photo(561, 700, 1) | 1, 512, 512)
    assert said == "resized 0.911x; cropped 638x511 to 512x512"
    assert found[510].min() > 0
    assert found[511].max() == 0


@pytest.mark.parametrize(
    ("policy", "size", "seen"),
    [
        ("vbench", (720, 1280), (288, 512)),
        ("vbench", (512, 300), (512, 300)),
        ("vbench-shorter", (720, 1280), (512, 910)),
        ("vbench-shorter-centercrop", (720, 1280), (512, 512)),
        ("vbench-shorter-centercrop", (500, 1280), (500, 1280)),
    ],
)
def test_a_policy_tells_what_the_model_sees(policy: str, size: tuple[int, int], seen: tuple[int, int]) -> None:
    assert Resize.parse(policy).size(*size) == seen
    assert str(Resize.parse(policy)) == policy
