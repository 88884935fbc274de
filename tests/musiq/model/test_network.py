"""The model: shapes, sizes, positions, and the properties that its fixed-shape form relies on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from musiq.model.network import Musiq, cut_patches
from musiq.patches import position_rows
from musiq.presets import PRESETS
from musiq.spec import PATCH, Scale
from tests.recipe import lively_model, photo


def _scores(model: Musiq, *images: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model.predict(torch.from_numpy(np.stack(images)))[0]


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_scores_a_batch_of_an_odd_size_and_each_image_by_itself(preset: str) -> None:
    model = lively_model(preset, height=75, width=101)
    images = [photo(75, 101, seed) for seed in range(2)]
    together = _scores(model, *images)
    assert together.shape == (2,)
    assert abs(together[0] - together[1]) > 1e-3, "different images, different scores"
    alone = torch.cat([_scores(model, one) for one in images])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(333, 500), (512, 512), (768, 1024)])
def test_token_counts_match_the_tokens_made(height: int, width: int) -> None:
    model = lively_model("tiny", height=height, width=width)
    scales = model.pyramid(torch.from_numpy(photo(height, width, 1))[None])
    tokens = model.embed(model.trunk(scales), scales)
    assert tokens.shape == (1, model.spec.tokens, model.spec.dim)


@pytest.mark.parametrize("ratings", [5, 10])
def test_a_distribution_sums_to_one_and_its_mean_is_the_score(ratings: int) -> None:
    model = lively_model("tiny", outputs=ratings)
    score, shares = model.predict(torch.from_numpy(photo(192, 256, 3))[None])
    np.testing.assert_allclose(shares.detach().numpy().sum(), 1.0, atol=1e-6)
    expected = (shares.detach().numpy() * np.arange(1, ratings + 1)).sum()
    np.testing.assert_allclose(score.detach().numpy()[0], expected, rtol=1e-5)


def test_the_score_is_in_the_units_that_the_spec_says() -> None:
    plain, moved = lively_model("tiny"), lively_model("tiny", score_shift=50.0, score_scale=20.0)
    one = photo(192, 256, 3)
    torch.testing.assert_close(_scores(moved, one), _scores(plain, one) * 20 + 50)


def test_patches_are_padded_with_the_smaller_half_before_and_cut_row_by_row() -> None:
    x = torch.arange(1.0, 1 + 3 * 33 * 70).view(1, 3, 33, 70)
    patches = cut_patches([x])
    padded = np.zeros((3, 64, 96), np.float32)
    padded[:, 15 : 15 + 33, 13 : 13 + 70] = x[0].numpy()  # 31 rows and 26 columns to add: 15 and 13 before
    for index, (row, column) in enumerate([(r, c) for r in range(2) for c in range(3)]):
        expected = padded[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
        np.testing.assert_array_equal(patches[0, index].numpy(), expected)


def test_positions_hash_every_grid_onto_ten_by_ten() -> None:
    spec = PRESETS["musiq"]
    found = position_rows(spec)
    rows, columns = spec.grid(Scale())  # the native image's tokens come last
    native = found[-rows * columns :].reshape(rows, columns)
    r, c = np.meshgrid(range(rows), range(columns), indexing="ij")
    np.testing.assert_array_equal(native, (r * 10 // rows) * 10 + c * 10 // columns)
    assert (native.min(), native.max()) == (0, 99)


def test_the_last_layer_asks_for_the_class_token_alone_and_loses_nothing() -> None:
    for preset in ("tiny", "resnet50-classic"):
        model = lively_model(preset, height=75, width=101)
        layer = model.layers[-1]
        x = torch.randn(2, 9, model.spec.dim)
        torch.testing.assert_close(layer(x, kept=1), layer(x)[:, :1], atol=1e-5, rtol=1e-5)


def test_an_image_of_two_widths_uses_the_same_weights() -> None:
    small, large = lively_model("tiny"), lively_model("tiny", height=384, width=512)
    assert {k: v.shape for k, v in small.state_dict().items()} == {k: v.shape for k, v in large.state_dict().items()}
