"""The ResNet-50 trunk's weights: all, a part of them, and files that are none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from musiq.errors import MusiqError  # noqa: E402, after the check for what it needs
from musiq.model.network import Musiq  # noqa: E402
from musiq.presets import preset  # noqa: E402
from musiq.training.pretrained_trunk import all_norms, load_trunk  # noqa: E402

SPEC = dataclasses.replace(preset("resnet50", 64, 64), layers=1)


def test_the_trunk_takes_torchvisions_weights_and_names_what_is_wrong_with_others(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(0)
    weights = torchvision.models.resnet50(weights=None).state_dict()
    model = Musiq(SPEC)
    # As older files: without the counters.
    old = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet50.pth")
    load_trunk(model, str(tmp_path / "resnet50.pth"))
    found = model.trunk.get_submodule("net").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in found.items())

    torch.save({name: value for name, value in old.items() if name != "layer3.0.conv2.weight"}, tmp_path / "less.pth")
    with pytest.raises(MusiqError, match=r"lacks 1 of the .* layer3\.0\.conv2\.weight"):
        load_trunk(model, str(tmp_path / "less.pth"))
    torch.save({**old, "conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "grey.pth")
    with pytest.raises(MusiqError, match=r"conv1\.weight has the shape \(64, 1, 7, 7\)"):
        load_trunk(model, str(tmp_path / "grey.pth"))
    torch.save({**old, "bn1.weight": torch.full((64,), torch.nan)}, tmp_path / "nan.pth")
    with pytest.raises(MusiqError, match=r"nan\.pth: bn1\.weight holds 64 NaN of 64 values"):
        load_trunk(model, str(tmp_path / "nan.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(MusiqError, match="--trunk-weights none"):
        load_trunk(model, str(tmp_path / "text.pth"))


def test_the_trunk_takes_what_training_scripts_put_around_its_weights(tmp_path: Path) -> None:
    import torchvision

    weights = torchvision.models.resnet50(weights=None).state_dict()
    model = Musiq(SPEC)
    content = {"epoch": 89, "model": {f"module.{name}": value for name, value in weights.items()}}
    torch.save(content, tmp_path / "wrapped.pth")
    load_trunk(model, str(tmp_path / "wrapped.pth"))
    found = model.trunk.get_submodule("net").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in found.items())


def test_a_part_of_the_trunks_weights_is_taken_and_only_norms_that_fit_their_convolution_freeze(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(4)
    weights = {name: value.numpy() for name, value in torchvision.models.resnet50(weights=None).state_dict().items()}
    lost = ("layer4.1.conv2.weight", "layer3.0.downsample.0.weight", "bn1.running_mean")
    np.savez(tmp_path / "part.npz", **{name: value for name, value in weights.items() if name not in lost})
    model = Musiq(SPEC)
    loaded = load_trunk(model, str(tmp_path / "part.npz"))
    found = model.trunk.get_submodule("net").state_dict()
    for name, value in found.items():
        assert np.array_equal(value.numpy(), weights[name]) is (name not in lost[:2]), name  # a mean of zeros is one
    left = {"trunk.net.layer4.1.bn2", "trunk.net.layer3.0.downsample.1", "trunk.net.bn1"}
    assert set(all_norms(model)) - set(loaded.complete_norms) == left
    assert "262 of the 265 tensors" in loaded.missing.replace("has ", "")
    assert "1 of layer4" in loaded.missing
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(MusiqError, match="lacks 265 of the 265"):
        load_trunk(model, str(tmp_path / "other.npz"))
