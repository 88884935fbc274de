"""The model that training begins with: its scales, and batch norms that keep their statistics."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from musiq.datasets import Dataset, Labelled  # noqa: E402, after the check for what it needs
from musiq.model import checkpoint  # noqa: E402
from musiq.model.network import Musiq  # noqa: E402
from musiq.presets import preset  # noqa: E402
from musiq.training.initial_model import build_model, set_train_mode  # noqa: E402
from musiq.training.pretrained_trunk import all_norms  # noqa: E402
from tests.musiq.training.small_model import RECIPE, SMALL  # noqa: E402


def test_frozen_batch_norms_keep_their_statistics_and_trained_ones_do_not() -> None:
    model = Musiq(dataclasses.replace(preset("resnet50", 64, 64), layers=1, scales=SMALL.scales[:1]))
    images = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    norm = model.trunk.get_submodule("net.bn1")
    for frozen, changes in ((all_norms(model), False), ([], True)):
        set_train_mode(model, frozen)
        before = norm.running_mean.clone()
        model(images)
        assert (not torch.equal(before, norm.running_mean)) is changes


def test_a_model_of_the_image_alone_keeps_it_unless_the_pyramid_is_asked_for(tmp_path: Path) -> None:
    items = tuple(Labelled(name, tmp_path / name, mos, "train") for name, mos in (("a.png", 1.0), ("b.png", 2.0)))
    dataset = Dataset(items, tmp_path, "stars")
    checkpoint.save(
        Musiq(dataclasses.replace(preset("tiny", 64, 64), scales=SMALL.scales[:1])), tmp_path / "alone.safetensors"
    )
    found = {
        scales: [
            scale.name
            for scale in build_model(
                dataclasses.replace(RECIPE, start=str(tmp_path / "alone.safetensors"), scales=scales), dataset
            )[0].spec.scales
        ]
        for scales in (None, "native", "pyramid")
    }
    assert found == {None: ["native"], "native": ["native"], "pyramid": ["native", "scale_128", "scale_96"]}
