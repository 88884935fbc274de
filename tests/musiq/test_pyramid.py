"""The resize matrices against OpenCV, torch and a written-out kernel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from musiq.errors import MusiqError
from musiq.presets import PRESETS
from musiq.pyramid import Bands, resize_matrix, scale_matrices

IMAGE = np.random.default_rng(0).random((97, 131), np.float32)
SIZES = [(48, 65), (33, 40), (97, 131), (150, 200), (1, 1)]


def _resized(rows: int, columns: int, kernel: str) -> np.ndarray:
    return resize_matrix(97, rows, kernel) @ IMAGE.astype(np.float64) @ resize_matrix(131, columns, kernel).T


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_cubic_is_opencvs_cubic_on_floats(rows: int, columns: int) -> None:
    expected = cv2.resize(IMAGE, (columns, rows), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(_resized(rows, columns, "cubic"), expected, atol=2e-5)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_cubic_is_torchs_bicubic(rows: int, columns: int) -> None:
    image = torch.from_numpy(IMAGE).double()[None, None]
    expected = torch.nn.functional.interpolate(image, size=(rows, columns), mode="bicubic", align_corners=False)
    np.testing.assert_allclose(_resized(rows, columns, "cubic"), expected[0, 0].numpy(), atol=2e-5)


def test_gaussian_weighs_the_pixels_within_one_and_a_half_by_the_written_out_kernel() -> None:
    matrix = resize_matrix(10, 4, "gaussian")
    for i in range(4):
        centre = (i + 0.5) * 10 / 4
        weights = [np.exp(-((j + 0.5 - centre) ** 2) / 0.5) if abs(j + 0.5 - centre) < 1.5 else 0.0 for j in range(10)]
        np.testing.assert_allclose(matrix[i], np.array(weights) / sum(weights), atol=1e-6)


@pytest.mark.parametrize("kernel", ["cubic", "gaussian"])
@pytest.mark.parametrize("outputs", [1, 7, 64, 300])
def test_every_row_sums_to_one_so_flat_images_stay_flat(kernel: str, outputs: int) -> None:
    np.testing.assert_allclose(resize_matrix(64, outputs, kernel).sum(axis=1), 1.0, atol=1e-12)


def test_an_unknown_kernel_is_named_with_the_known_ones() -> None:
    with pytest.raises(MusiqError, match=r"'lanczos'.*cubic, gaussian"):
        resize_matrix(4, 2, "lanczos")


def test_cut_scales_keep_the_first_rows_of_the_whole_resize() -> None:
    spec = PRESETS["resnet50-classic"]
    left, right = scale_matrices(spec, spec.scales[2])
    assert (left.shape, right.shape) == ((160, 768), (1024, 224))
    np.testing.assert_array_equal(left, resize_matrix(768, 168, "cubic")[:160])


@pytest.mark.parametrize("kernel", ["cubic", "gaussian"])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(768, (168, 288)), (768, (160, 288)), (97, (72, 43)), (33, (1, 90)), (5, (5,))]
)
def test_bands_give_each_row_of_their_matrix_the_columns_that_it_reads(
    kernel: str, inputs: int, outputs: tuple[int, ...]
) -> None:
    matrix = np.concatenate([resize_matrix(inputs, count, kernel) for count in outputs])
    bands = Bands.of(matrix)
    k, _, width = bands.blocks.shape
    image = np.random.default_rng(1).random((inputs, 7))
    read = image[bands.columns].reshape(k, width, 7)
    np.testing.assert_allclose((bands.blocks @ read).reshape(-1, 7)[bands.rows], matrix @ image, atol=1e-12)


def test_bands_of_a_1024x768_image_take_a_small_part_of_the_arithmetic() -> None:
    spec = PRESETS["musiq"]
    matrix = np.concatenate([scale_matrices(spec, scale)[0] for scale in spec.scales if scale.length is not None])
    assert Bands.of(matrix).blocks.size < matrix.size / 10
