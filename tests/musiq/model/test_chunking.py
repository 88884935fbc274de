"""Trunks that work on a few images or patches at a time: the same features, and all at once where parts do not pay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from musiq.model.chunking import PATCHES_AT_ONCE, each_patch
from tests.recipe import lively_model, photo


@pytest.mark.parametrize("at_once", [0, 100])
@pytest.mark.parametrize("batch", [1, 3])
def test_parts_give_every_patch_its_features_in_order_and_are_nearly_the_same_size(batch: int, at_once: int) -> None:
    sizes: list[int] = []

    def features(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.flatten(1)[:, ::500]

    patches = torch.rand(batch, 204, 3, 32, 32)
    found = each_patch(features, patches, at_once)
    expected = patches.flatten(2)[:, :, ::500]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert sum(sizes) == batch * 204
    if at_once:
        assert sizes == [batch * 68] * 3  # of each image of the batch, whose size a graph does not know
    else:
        assert max(sizes) <= PATCHES_AT_ONCE
        assert max(sizes) - min(sizes) < len(sizes)


@pytest.mark.slow
def test_a_resnet_takes_few_images_at_once_where_a_cpu_scores_and_all_where_it_learns_or_makes_a_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = lively_model("resnet50", height=64, width=96, layers=1)
    images = torch.from_numpy(np.stack([photo(64, 96, seed) for seed in range(5)]))
    sizes: list[int] = []
    monkeypatch.setattr("musiq.model.chunking.PIXELS_AT_ONCE", 2**30)
    model.trunk.net.conv1.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[0]))  # type: ignore[operator,union-attr]
    with torch.inference_mode():
        together = model.predict(images)[0]
    assert sizes == [5, 5, 5]
    sizes.clear()
    monkeypatch.setattr("musiq.model.chunking.PIXELS_AT_ONCE", 2 * 64 * 96)
    with torch.inference_mode():
        torch.testing.assert_close(model.predict(images)[0], together, atol=2e-5, rtol=0)
    assert sizes == [2, 2, 1, *[1] * 10]  # one by one of the scales of 384 and 224, which are larger here
    for graph_of in (
        lambda: torch.export.export(model, (images,)),
        lambda: torch.jit.trace(model, images, check_trace=False),
        lambda: model.train()(images),
    ):
        sizes.clear()
        graph_of()
        assert sizes == [5, 5, 5]


def test_compiled_for_any_device_all_patches_are_computed_at_once() -> None:
    model = lively_model("tiny", height=384, width=512)
    image = torch.from_numpy(photo(384, 512, 1))[None]
    sizes: list[int] = []
    model.trunk.conv_root.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[0]))  # type: ignore[operator,union-attr]
    program = torch.export.export(model, (image,))
    assert set(sizes) == {12 * 16 + 3 * 4 + 3 * 3}
    torch.testing.assert_close(program.module()(image), model(image))
