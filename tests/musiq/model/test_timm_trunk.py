"""Trunks of timm's: the maps of timm's own networks, tokens of whole patches, any size as each fixed one, and refusals."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("timm")

import timm

from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.model.network import Musiq, TimmTrunk
from musiq.presets import PRESETS
from tests.recipe import lively_model, photo

FAMILIES = {"tf_efficientnet_lite0": (8, 16, 32), "resnet18": (32,), "convnext_atto": (4, 32)}


@cache
def model_of(name: str, height: int | None = None, width: int | None = None) -> Musiq:
    how = {"trunk": f"timm:{name}", "trunk_strides": FAMILIES[name], "layers": 1}
    model: Musiq = lively_model("lite", height=height, width=width, **how)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_of_whole_patches_are_those_of_timm_itself_to_the_last_bit(name: str) -> None:
    trunk = model_of(name).trunk
    assert isinstance(trunk, TimmTrunk)
    whole = timm.create_model(name, features_only=True).eval()
    left = whole.load_state_dict(trunk.net.state_dict(), strict=False)
    assert not left.unexpected_keys
    x = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = {96 // y.shape[2]: y for y in whole(x)}
        for stride, found in zip(FAMILIES[name], trunk.net(x), strict=True):
            torch.testing.assert_close(found, wanted[stride], atol=0, rtol=0)
        tokens = trunk.maps(x)
    fine = FAMILIES[name][0]
    block = wanted[fine][:, :, : 32 // fine, : 32 // fine]
    torch.testing.assert_close(tokens[:, : block.shape[1], 0, 0], block.mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name", [next(iter(FAMILIES)), *(pytest.param(name, marks=pytest.mark.slow) for name in [*FAMILIES][1:])]
)
def test_any_size_scores_as_the_model_made_for_that_size(name: str) -> None:
    for height, width in ((64, 96), (75, 101), (1, 40)):
        images = torch.from_numpy(np.stack([photo(height, width, seed) for seed in (1, 2)]))
        with torch.inference_mode():
            found, fixed = (model_of(name, *size).predict(images)[0] for size in ((None, None), (height, width)))
        torch.testing.assert_close(found, fixed, atol=2e-5, rtol=0)
        assert abs(found[0] - found[1]) > 1e-3


def test_stages_after_the_last_map_are_not_built() -> None:
    how = {"trunk_strides": (8, 16)}
    names = {name.split(".")[1] for name in lively_model("lite", **how).trunk.net.blocks.state_dict(prefix="blocks.")}
    assert names == {"0", "1", "2", "3", "4"}


def test_a_checkpoint_keeps_the_trunk_and_its_strides(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = model_of("resnet18", 64, 96)
    checkpoint.save(model, path)
    again = checkpoint.load(path)
    image = torch.from_numpy(photo(64, 96, 1)[None])
    assert again.spec == model.spec
    with torch.inference_mode():
        torch.testing.assert_close(again.predict(image)[0], model.predict(image)[0], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("trunk", "strides", "reason"),
    [
        ("timm:resnet19", (32,), "has no network 'resnet19'; near are resnet18"),
        ("timm:vit_tiny_patch16_224", (32,), "its strides are 16"),
        ("timm:vit_tiny_patch16_224", (16,), "Input height"),
    ],
)
def test_what_gives_no_maps_of_the_strides_at_any_size_is_refused_in_a_line(
    trunk: str, strides: tuple[int, ...], reason: str
) -> None:
    spec = dataclasses.replace(PRESETS["lite"], trunk=trunk, trunk_strides=strides)
    with pytest.raises(MusiqError, match=reason) as refused:
        Musiq(spec)
    assert "\n" not in str(refused.value)
