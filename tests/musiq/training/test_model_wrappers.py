"""What is put round a model in training: activations computed again, branches left out, averages, layouts, compilation."""

from __future__ import annotations

import dataclasses
import functools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from torch import Tensor, nn  # noqa: E402, after the check for what it needs

from musiq.errors import MusiqError  # noqa: E402
from musiq.model.network import Musiq  # noqa: E402
from musiq.presets import preset  # noqa: E402
from musiq.training.model_wrappers import (  # noqa: E402
    add_stochastic_depth,
    leave_tokens_out,
    weight_average,
    wrap_model,
)
from musiq.training.pretrained_trunk import all_norms  # noqa: E402
from tests.musiq.training.small_model import (  # noqa: E402
    RECIPE,
    SMALL,
    assert_same,
    gradients,
    photos,
    small_model,
)


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_activations_computed_again_give_the_same_gradients(drop_path: float) -> None:
    recipe = dataclasses.replace(RECIPE, drop_path=drop_path)
    plain, forgetful = small_model(), small_model()
    wrap_model(plain, recipe, torch.device("cpu"))
    wrap_model(forgetful, dataclasses.replace(recipe, checkpointing=True), torch.device("cpu"))
    _, expected = gradients(plain, recipe)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        _, found = gradients(forgetful, recipe)
    assert_same(found, expected)
    in_full: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: in_full.append(x.numel()) or x, lambda x: x):
        gradients(small_model(), RECIPE)
    assert sum(kept) < sum(in_full) / 2


def test_batch_norms_count_an_image_once_when_activations_are_computed_again() -> None:
    recipe = dataclasses.replace(RECIPE, preset="resnet50", batch_size=2)
    models = []
    for checkpointing in (False, True):
        model = small_model(dataclasses.replace(preset("resnet50", 64, 64), layers=1, scales=SMALL.scales[:1]))
        wrap_model(model, dataclasses.replace(recipe, checkpointing=checkpointing), torch.device("cpu"))
        gradients(model, recipe)
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
    add_stochastic_depth(model, 0.6)
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


def tokens_seen(model: Musiq, seed: int) -> tuple[Tensor, Tensor]:
    """What reaches the transformer for two images, and their scores."""
    seen: list[Tensor] = []
    hook = model.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = photos(2)[0]
    torch.manual_seed(seed)
    with torch.inference_mode():
        scores = model(images)
    hook.remove()
    return seen[0], scores


def test_tokens_are_left_out_in_training_alone_and_the_class_token_stays() -> None:
    whole, expected = tokens_seen(small_model().eval(), 0)
    model = small_model()
    leave_tokens_out(model, 0.7)
    assert torch.equal(tokens_seen(model.eval(), 0)[1], expected)
    kept, _ = tokens_seen(model.train(), 0)
    count = whole.shape[1] - 1
    assert count >= 5
    assert kept.shape == (2, 1 + round(0.3 * count), whole.shape[2])
    assert torch.equal(kept[:, 0], whole[:, 0])
    places = [[(row == whole[image]).all(dim=1).nonzero().item() for row in kept[image]] for image in (0, 1)]
    assert places[0] == places[1] == sorted(set(places[0]))
    assert torch.equal(tokens_seen(model, 0)[0], kept)
    assert any(not torch.equal(tokens_seen(model, seed)[0], kept) for seed in (1, 2, 3))


def test_of_few_tokens_one_is_always_left() -> None:
    model = small_model()
    wrap_model(model, dataclasses.replace(RECIPE, token_drop=0.999), torch.device("cpu"))
    assert tokens_seen(model.train(), 0)[0].shape[1] == 2


def test_the_average_of_weights_is_the_written_out_one() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = weight_average(model, 0.5)
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
    assert weight_average(model, 0.0) is None


@pytest.mark.parametrize("compile", [False, True])
def test_channels_last_and_compilation_change_no_score(compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced as always; only the minute of C++ is left out.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    images, _ = photos()
    with torch.inference_mode():
        expected = small_model().eval()(images)
    model = small_model()
    names = list(model.state_dict())
    changed = dataclasses.replace(RECIPE, channels_last=True, compile=compile)
    wrap_model(model, changed, torch.device("cpu"))
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
        wrap_model(small_model(), dataclasses.replace(RECIPE, compile=True), torch.device("cpu"))
