"""The first weights of the projection of a trunk's features."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from musiq.model.network import Musiq, TimmTrunk  # noqa: E402, after the check for what it needs
from musiq.presets import preset  # noqa: E402
from musiq.training.trunk.projection import standardise_projection  # noqa: E402


def test_a_projection_begins_as_if_each_channel_had_mean_zero_and_deviation_one() -> None:
    torch.manual_seed(0)
    spec = dataclasses.replace(preset("lite", 64, 96), trunk="timm:resnet18", trunk_strides=(8, 32), layers=1)
    model = Musiq(spec)
    trunk = model.trunk
    assert isinstance(trunk, TimmTrunk)
    before = trunk.project.weight.detach().clone().flatten(1)
    bias = trunk.project.bias.detach().clone()  # type: ignore[union-attr]
    images = torch.randint(0, 255, (5, 64, 96, 3), dtype=torch.uint8)
    standardise_projection(model, images.split(2))
    with torch.inference_mode():
        tokens = torch.cat([trunk.maps(x).transpose(0, 1).flatten(1) for x in trunk.padded(model.pyramid(images))], 1).T
        found = model.trunk(model.pyramid(images)).flatten(0, 1)
    spread = tokens.std(0, correction=0)
    standard = (tokens - tokens.mean(0)) / spread.clamp(min=1e-3 * float(spread.max()))  # dead channels stay quiet
    wanted = standard @ before.T + bias
    torch.testing.assert_close(found.mean(0), wanted.mean(0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.std(0), wanted.std(0), atol=1e-3, rtol=1e-3)
