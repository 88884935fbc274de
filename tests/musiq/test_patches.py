"""An image cut into patches in numpy, against the model's own pyramid in torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from musiq.model.any_size import AnySizeEmbeddings, AnySizePyramid
from musiq.model.network import cut_patches
from musiq.patches import cut, position_rows, scale_rows
from musiq.presets import PRESETS
from musiq.spec import Spec
from tests.recipe import photo

PAPER, PYIQA = (PRESETS[name].at_any_size() for name in ("musiq", "musiq-pyiqa"))
SIZES = [(1, 1), (20, 25), (96, 6700), (6700, 96), (47, 33), (33, 47), (480, 640), (512, 512), (288, 512), (640, 384)]
"""Height and width: the last four have ratios of 4/3 and 5/3 to a scale, where the radius of the Gaussian decides."""


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("spec", [PAPER, PYIQA], ids=lambda spec: spec.kernel)
def test_patches_are_those_of_the_models_own_pyramid(spec: Spec, height: int, width: int) -> None:
    image = photo(height, width, 3)
    with torch.no_grad():
        expected = cut_patches(AnySizePyramid(spec)(torch.from_numpy(image[None])), are_padded=True)[0].numpy()
    np.testing.assert_allclose(cut(image, spec.at(height, width)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", ["integer", "float32"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (96, 6700), (7000, 33), (480, 640)])
def test_rows_of_positions_and_scales_are_those_that_the_model_adds(rule: str, height: int, width: int) -> None:
    spec = dataclasses.replace(PRESETS["tiny"], height=None, width=None, position_rule=rule, dim=2)
    embed: Any = AnySizeEmbeddings(spec)
    embed.position.data = torch.arange(100.0)[:, None] * torch.tensor([1.0, 0.0])
    embed.scale.data = torch.arange(3.0)[:, None] * torch.tensor([0.0, 1.0])
    embed.class_token.data.zero_()
    at = spec.at(height, width)
    pixels = [torch.zeros(1, 3, 32 * rows, 32 * columns) for rows, columns in map(at.grid, at.scales)]
    added = embed(torch.zeros(1, at.tokens - 1, 2), pixels)[0, 1:]
    np.testing.assert_array_equal(position_rows(at), added[:, 0].detach().numpy())
    np.testing.assert_array_equal(scale_rows(at), added[:, 1].detach().numpy())
