"""Models for images of any size: the golden scores at 12 sizes, and the model of each fixed size as the oracle."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from musiq.model import checkpoint
from musiq.model.any_size import AnySizeEmbeddings, _gaussian, _ratio, scaled_sizes
from musiq.model.network import Musiq
from musiq.presets import PRESETS
from musiq.pyramid import resize_matrix
from tests.golden_any_size import GOLDEN, TOLERANCE
from tests.recipe import lively_model, photo

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name", [pytest.param("google/1", marks=SLOW), "google/10", pytest.param("pyiqa/1", marks=SLOW), "pyiqa/10"]
)
def test_a_foreign_checkpoint_scores_each_size_as_its_own_implementation_does(
    foreign: Callable[[str], Path], name: str
) -> None:
    model = checkpoint.load(foreign(name))
    assert model.spec.any_size
    for checked, height, width, seed, score in GOLDEN:
        if checked == name:
            with torch.inference_mode():
                found = model.predict(torch.from_numpy(photo(height, width, seed))[None])[0]
            assert abs(float(found) - score) <= TOLERANCE, (height, width)


TINY_SIZES = [(1, 1), (1, 40), (33, 47), (250, 333), (333, 250), (48, 700), (801, 800), (96, 64)]


@pytest.mark.parametrize(
    ("preset", "height", "width"),
    [
        *(("tiny", *size) for size in TINY_SIZES),
        ("resnet50", 96, 141),
        *(pytest.param("resnet50", *size, marks=SLOW) for size in ((1, 1), (180, 33))),
    ],
)
def test_any_size_scores_as_the_model_made_for_that_size(preset: str, height: int, width: int) -> None:
    model = any_size_model(preset)
    fixed = Musiq(PRESETS[preset].at(height, width)).eval()
    fixed.load_state_dict(model.state_dict())
    images = torch.from_numpy(np.stack([photo(height, width, seed) for seed in (1, 2)]))
    with torch.inference_mode():
        np.testing.assert_allclose(model.predict(images)[0], fixed.predict(images)[0], atol=2e-5)


@cache
def any_size_model(preset: str) -> Musiq:
    model: Musiq = lively_model(preset, height=None, width=None)
    return model


def test_a_ratio_is_rounded_as_division_rounds_it() -> None:
    n = np.arange(1, 65536, dtype=np.float32)
    for m in [*range(1, 385, 7), 224, 384, 6700]:
        found = _ratio(torch.full((len(n),), float(m)), torch.from_numpy(n))
        np.testing.assert_array_equal(found.numpy(), np.float32(m) / n)


def test_sizes_of_the_resized_scales_are_those_of_the_spec() -> None:
    draw = np.random.default_rng(0)
    sizes = [*draw.integers(1, 1200, (400, 2)), *draw.integers(1, 20000, (400, 2)), (1, 65535), (65535, 1), (1, 1)]
    for spec in (PRESETS["musiq"], PRESETS["musiq-pyiqa"], PRESETS["resnet50"]):
        for height, width in ((int(h), int(w)) for h, w in sizes):
            wanted = [spec.at(height, width).size(scale) for scale in spec.scales if scale.length is not None]
            assert [(int(h), int(w)) for h, w in scaled_sizes(spec, height, width)] == wanted


def test_the_gaussian_counts_the_same_pixels_as_tensorflow_at_each_ratio() -> None:
    draw = np.random.default_rng(1)
    ratios = [
        *draw.integers(1, 385, (150, 2)) * (9, 1),
        (640, 384),
        (480, 288),
        (1024, 384),
        (512, 384),
        (33, 384),
        (96, 3),
    ]
    for inputs, outputs in ((int(n), int(m)) for n, m in ratios):
        step = 1 / _ratio(torch.tensor(float(outputs)), torch.tensor(float(inputs)))
        index, weight = _gaussian(torch.arange(outputs), inputs, outputs, step)
        found = np.zeros((outputs, inputs))
        weight = weight / weight.sum(1, keepdim=True)
        np.add.at(found, (np.arange(outputs)[:, None], index.clamp(0, inputs - 1).numpy()), weight.numpy())
        # One pixel more or less at the radius is 0.0055 or more.
        np.testing.assert_allclose(found, resize_matrix(inputs, outputs, "gaussian"), atol=2e-3)


class Cells(nn.Module):
    """The positions of a grid of patches, by its rows and columns alone."""

    def __init__(self, preset: str) -> None:
        super().__init__()
        self.embeddings = AnySizeEmbeddings(PRESETS[preset].at_any_size())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.embeddings._cells([rows.shape[0]])[0]


@pytest.mark.parametrize("preset", ["musiq", "tiny"])
def test_positions_are_those_of_the_original_in_each_runtime_whatever_the_rows_of_patches(
    preset: str, tmp_path: Path
) -> None:
    path = tmp_path / "cells.onnx"
    shapes: Any = ({0: torch.export.Dim("rows", min=1)},)
    torch.onnx.export(Cells(preset).eval(), (torch.zeros(21),), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(str(path))
    compiled = openvino.Core().compile_model(str(path), "CPU")
    for rows in [*range(1, 300), 410, 1025, 2047]:
        place = np.arange(rows)
        # TensorFlow's nearest neighbour from 10 cells, in float32; exact where this project's own models are concerned.
        exact, rounded = place * 10 // rows, np.floor(place.astype(np.float32) * (np.float32(10) / np.float32(rows)))
        wanted = rounded if preset == "musiq" else exact
        given = np.zeros(rows, np.float32)
        np.testing.assert_array_equal(session.run(None, {session.get_inputs()[0].name: given})[0], wanted)
        np.testing.assert_array_equal(next(iter(compiled(given).values())), wanted)
