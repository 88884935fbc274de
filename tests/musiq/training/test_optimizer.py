"""What surrounds a step of training: gradients in pieces, averages, rates, what is left out, computed again or frozen."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")

from torch import Tensor, nn  # noqa: E402, after the check for them

from musiq.errors import MusiqError  # noqa: E402
from musiq.model import checkpoint  # noqa: E402
from musiq.model.network import Musiq  # noqa: E402
from musiq.spec import Spec, preset  # noqa: E402
from musiq.training import initial_model, model_wrappers, run_folder  # noqa: E402
from musiq.training.objective import Objective, Wanted  # noqa: E402
from musiq.training.optimizer import build_optimizer, rate_factor, set_rates  # noqa: E402
from musiq.training.pretrained_trunk import all_norms, load_trunk  # noqa: E402
from musiq.training.run_folder import Settings, State  # noqa: E402
from tests.full_disk import files_of_at_most  # noqa: E402

SETTINGS = Settings(
    preset="tiny",
    start=None,
    height=64,
    width=64,
    outputs=1,
    epochs=1,
    batch_size=7,
    optimizer="adamw",
    lr=0.01,
    weight_decay=0.05,
    warmup=0.0,
    clip=0.0,
    loss="l1",
    margin=0.1,
    flip=False,
    seed=3,
    trunk_weights="none",
    batch_norm="trained",
    mixed_precision="no",
)
SMALL = dataclasses.replace(preset("tiny", 64, 64), dim=32, layers=2, mlp_dim=64)


def small_model(spec: Spec = SMALL) -> Musiq:
    torch.manual_seed(0)
    return Musiq(spec)


def photos(count: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(0, 255, (count, 64, 64, 3), dtype=torch.uint8), torch.arange(count)


def gradients(model: Musiq, settings: Settings, groups: Tensor | None = None) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient of one batch of seven, by the code that train.py's loop calls."""
    accelerator = accelerate.Accelerator(cpu=True)
    generator = torch.Generator().manual_seed(2)
    shares = torch.rand(7, settings.outputs, generator=generator).softmax(dim=1) if settings.outputs > 1 else None
    wanted = Wanted(torch.randn(7, generator=generator), shares, groups)
    images, indices = photos()
    model.train()
    loss = Objective(accelerator, settings, wanted, share=7).backward(model, images, indices, step=5)
    return loss, {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To float32's rounding of sums as large as the largest gradient: those of the keys' biases are zero but for it."""
    assert found.keys() == expected.keys()
    largest = max(value.abs().max().item() for value in expected.values())
    assert largest > 1e-3
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-5 * largest), name


@pytest.mark.parametrize(
    ("loss", "outputs"), [("l1", 1), ("l1+0.5*ranking", 1), ("fidelity+plcc", 1), ("emd+emd1", 5), ("emd+ranking", 5)]
)
@pytest.mark.parametrize("pieces", [3, 7, 9])
def test_a_batch_in_pieces_has_the_loss_and_gradient_of_the_whole(loss: str, outputs: int, pieces: int) -> None:
    settings = dataclasses.replace(SETTINGS, loss=loss, outputs=outputs)
    spec = dataclasses.replace(SMALL, outputs=outputs)
    groups = torch.tensor([0, 0, 1, 1, 0, 1, 0])
    whole_loss, whole = gradients(small_model(spec), settings, groups)
    found_loss, found = gradients(small_model(spec), dataclasses.replace(settings, accumulate=pieces), groups)
    assert found_loss == pytest.approx(whole_loss, rel=1e-5)
    assert_same(found, whole)


def test_pieces_leave_out_the_same_branches_when_they_pass_twice() -> None:
    settings = dataclasses.replace(SETTINGS, loss="fidelity", accumulate=3, drop_path=0.5)
    model = small_model()
    model_wrappers.drop_paths(model, 0.5)
    loss, _ = gradients(model, settings)
    again, _ = gradients(copy.deepcopy(model), settings)
    assert again == loss
    outputs = []
    keep = model.register_forward_hook(lambda *call: outputs.append(call[2].detach()))
    gradients(model, settings)
    keep.remove()
    assert len(outputs) == 6
    for first, second in zip(outputs[:3], outputs[3:], strict=True):
        assert torch.equal(first, second)


def test_a_batch_without_a_readable_image_has_no_gradient() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    for loss in ("l1", "ranking"):
        model = small_model()
        objective = Objective(accelerator, dataclasses.replace(SETTINGS, loss=loss), Wanted(torch.zeros(7)), share=7)
        none = torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
        assert objective.backward(model, *none, step=0) == 0
        assert all(value.grad is None or not value.grad.any() for value in model.parameters())


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_activations_computed_again_give_the_same_gradients(drop_path: float) -> None:
    settings = dataclasses.replace(SETTINGS, drop_path=drop_path)
    plain, forgetful = small_model(), small_model()
    model_wrappers.equip(plain, settings, torch.device("cpu"))
    model_wrappers.equip(forgetful, dataclasses.replace(settings, checkpointing=True), torch.device("cpu"))
    _, expected = gradients(plain, settings)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        _, found = gradients(forgetful, settings)
    assert_same(found, expected)
    in_full: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: in_full.append(x.numel()) or x, lambda x: x):
        gradients(small_model(), SETTINGS)
    assert sum(kept) < sum(in_full) / 2


def test_batch_norms_count_an_image_once_when_activations_are_computed_again() -> None:
    settings = dataclasses.replace(SETTINGS, preset="resnet50", batch_size=2)
    models = []
    for checkpointing in (False, True):
        model = small_model(dataclasses.replace(preset("resnet50", 64, 64), layers=1, scales=SMALL.scales[:1]))
        model_wrappers.equip(model, dataclasses.replace(settings, checkpointing=checkpointing), torch.device("cpu"))
        gradients(model, settings)
        models.append(model)
    norms = all_norms(models[0])
    assert len(norms) == 53
    for name in norms:
        plain, forgetful = (model.get_submodule(name) for model in models)
        assert torch.equal(plain.running_mean, forgetful.running_mean), name
        assert plain.running_mean.any()
    assert_same(*({n: v.grad for n, v in model.named_parameters()} for model in reversed(models)))


def test_stochastic_depth_leaves_branches_out_by_their_layer_and_keeps_the_mean() -> None:
    model = small_model()
    model_wrappers.drop_paths(model, 0.6)
    x = torch.ones(4000, 1, 32)
    for number, layer in enumerate(model.layers, 1):
        for branch, call in ((layer.attention, (x, x)), (layer.mlp, (x,))):
            branch.train()
            branched = branch(*call)[:, 0]
            branch.eval()
            whole = branch(*call)[:, 0]
            left_out = (branched == 0).all(dim=1)
            rate = 0.6 * number / 2
            assert left_out.float().mean().item() == pytest.approx(rate, abs=0.03)
            assert torch.allclose(branched[~left_out], whole[~left_out] / (1 - rate), rtol=1e-4, atol=1e-6)


def test_the_average_of_weights_is_the_written_out_one() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = model_wrappers.average_of(model, 0.5)
    assert average is not None
    expected = None
    for update in range(12):
        with torch.no_grad():
            model[0].weight.copy_(torch.randn(2, 3))
            model[1].running_mean.fill_(update)
        average.update_parameters(model)
        value = model[0].weight.detach().double().numpy()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.module[0].weight.detach().numpy() == pytest.approx(expected, abs=1e-6)
    assert average.module[1].running_mean.tolist() == [11, 11]
    assert model_wrappers.average_of(model, 0.0) is None


def test_rates_fall_from_the_head_down_to_the_trunk() -> None:
    settings = dataclasses.replace(SETTINGS, layer_decay=0.5, trunk_lr=0.1, head_lr=10)
    factors = {
        "head.weight": 10,
        "norm.bias": 1,
        "layers.1.mlp.0.weight": 0.5,
        "layers.0.norm1.weight": 0.25,
        "embed.position": 0.125,
        "trunk.project.weight": 0.125,
        "trunk.net.conv1.weight": 0.0125,
    }
    assert {name: rate_factor(name, settings, layers=2) for name in factors} == pytest.approx(factors)


def test_each_parameter_has_one_rate_and_norms_and_biases_do_not_decay() -> None:
    model = small_model()
    settings = dataclasses.replace(SETTINGS, layer_decay=0.5, trunk_lr=0.1)
    optimizer = build_optimizer(settings, model)
    set_rates(optimizer, 0.02)
    found = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        group = found[id(parameter)]
        assert group["lr"] == pytest.approx(0.02 * rate_factor(name, settings, 2))
        plain = name.endswith("bias") or "norm" in name or name == "embed.class_token"
        assert group["weight_decay"] == (0 if plain else 0.05), name


@pytest.mark.parametrize("compile", [False, True])
def test_channels_last_and_compilation_change_no_score(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced as always; only the minute of C++ is left out.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    images, _ = photos()
    with torch.inference_mode():
        expected = small_model().eval()(images)
    model = small_model()
    names = list(model.state_dict())
    changed = dataclasses.replace(SETTINGS, channels_last=True, compile=compile)
    model_wrappers.equip(model, changed, torch.device("cpu"))
    last = model.trunk.get_submodule("conv2").weight.is_contiguous(memory_format=torch.channels_last)
    assert last is not compile  # a patch trunk alone has one layout or the other
    with torch.inference_mode():
        assert torch.allclose(model.eval()(images), expected, atol=1e-5)
    assert list(model.state_dict()) == names


def test_without_a_compiler_compile_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found\nin many lines")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(
        MusiqError, match=r"--compile does not work on this machine \(No working C\+\+ compiler found\)"
    ):
        model_wrappers.equip(small_model(), dataclasses.replace(SETTINGS, compile=True), torch.device("cpu"))


def test_a_part_of_the_trunks_weights_is_taken_and_only_norms_that_fit_their_convolution_freeze(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(4)
    weights = {name: value.numpy() for name, value in torchvision.models.resnet50(weights=None).state_dict().items()}
    lost = ("layer4.1.conv2.weight", "layer3.0.downsample.0.weight", "bn1.running_mean")
    np.savez(tmp_path / "part.npz", **{name: value for name, value in weights.items() if name not in lost})
    model = Musiq(preset("resnet50", 64, 64))
    loaded = load_trunk(model, str(tmp_path / "part.npz"))
    found = model.trunk.get_submodule("net").state_dict()
    for name, value in found.items():
        assert np.array_equal(value.numpy(), weights[name]) is (name not in lost[:2]), name  # a mean of zeros is one
    left = {"trunk.net.layer4.1.bn2", "trunk.net.layer3.0.downsample.1", "trunk.net.bn1"}
    assert set(all_norms(model)) - set(loaded.whole_norms) == left
    assert "262 of the 265 tensors" in loaded.missing.replace("has ", "")
    assert "1 of layer4" in loaded.missing
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(MusiqError, match="lacks 265 of the 265"):
        load_trunk(model, str(tmp_path / "other.npz"))


def saved_state(folder: Path, epoch: int) -> None:
    run_folder.save_state(folder, State(epoch=epoch), {"model": {"weight": torch.full((50_000,), float(epoch))}})


def test_a_disk_that_fills_up_while_a_state_is_written_leaves_the_last_good_one(tmp_path: Path) -> None:
    saved_state(tmp_path, epoch=1)
    half = 100_000
    with files_of_at_most(half), pytest.raises(MusiqError, match=r"Cannot write .*state\.pt: its disk may be full"):
        saved_state(tmp_path, epoch=2)
    state, parts = run_folder.load_state(tmp_path)
    assert (state.epoch, float(parts["model"]["weight"][-1])) == (1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_broken_state_gives_way_to_the_one_before_it(tmp_path: Path) -> None:
    saved_state(tmp_path, epoch=1)
    saved_state(tmp_path, epoch=2)
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: len(whole) // 2])
    said: list[str] = []
    state, _ = run_folder.load_state(tmp_path, said.append)
    assert state.epoch == 1
    assert "state.pt is broken" in said[0]
    (tmp_path / "state-before.pt").write_bytes(b"")
    with pytest.raises(MusiqError, match="is broken"):
        run_folder.load_state(tmp_path)


def test_the_newest_run_that_can_be_read_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from musiq.datasets.dataset import Dataset, Labelled

    monkeypatch.chdir(tmp_path)
    dataset = Dataset((Labelled("a.png", tmp_path / "a.png", 1.0, "train"),), tmp_path, "stars")
    for name in ("first", "second", "third"):
        run_folder.write_run(Path("runs") / name, SETTINGS, dataset, "")
    saved_state(Path("runs/first"), epoch=1)  # begun first, written to last
    assert run_folder.newest().name == "first"
    saved_state(Path("runs/third"), epoch=1)
    Path("runs/third/state.pt").write_bytes(b"half")
    said: list[str] = []
    assert run_folder.newest(said.append).name == "first"
    assert "Passed over" in said[0]
    assert "third" in said[0]


def test_a_run_of_an_earlier_version_is_read_with_the_defaults_of_newer_options() -> None:
    old: dict[str, Any] = {name: value for name, value in vars(SETTINGS).items() if name not in ("ema", "scales")}
    assert Settings(**old) == SETTINGS


def test_a_model_of_the_image_alone_keeps_it_unless_the_pyramid_is_asked_for(tmp_path: Path) -> None:
    from musiq.datasets.dataset import Dataset, Labelled

    items = tuple(Labelled(name, tmp_path / name, mos, "train") for name, mos in (("a.png", 1.0), ("b.png", 2.0)))
    dataset = Dataset(items, tmp_path, "stars")
    checkpoint.save(
        Musiq(dataclasses.replace(preset("tiny", 64, 64), scales=SMALL.scales[:1])), tmp_path / "alone.safetensors"
    )
    found = {
        scales: [
            scale.name
            for scale in initial_model.build_model(
                dataclasses.replace(SETTINGS, start=str(tmp_path / "alone.safetensors"), scales=scales), dataset
            )[0].spec.scales
        ]
        for scales in (None, "native", "pyramid")
    }
    assert found == {None: ["native"], "native": ["native"], "pyramid": ["native", "scale_128", "scale_96"]}
