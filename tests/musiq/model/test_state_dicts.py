"""Checkpoints as training frameworks wrap them: what is known is taken off, what is left over named; NaN is called that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402, after the check for what it needs

from musiq.errors import MusiqError  # noqa: E402
from musiq.model import checkpoint  # noqa: E402
from musiq.model.network import Musiq  # noqa: E402
from tests.musiq.model.foreign_files import damaged  # noqa: E402
from tests.recipe import lively_model  # noqa: E402


def assert_equal(found: Musiq, expected: Musiq) -> None:
    assert found.spec == expected.spec
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def _under(*keys: str) -> Callable[[dict[str, torch.Tensor]], dict[str, Any]]:
    """Wraps a state dict as training frameworks do: the last of `keys` is the innermost."""

    def wrap(state: dict[str, torch.Tensor]) -> dict[str, Any]:
        content: dict[str, Any] = state
        for key in reversed(keys):
            content = {"epoch": 3, key: content}
        return content

    return wrap


def _before_names(prefix: str) -> Callable[[dict[str, torch.Tensor]], dict[str, Any]]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def _lightning(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    named = {f"model._orig_mod.{name}": value for name, value in state.items()}
    callbacks = {"ModelCheckpoint{'monitor': 'val_srcc'}": {"best_model_score": torch.tensor(0.9)}}
    return {"state_dict": named, "callbacks": callbacks, "pytorch-lightning_version": "2.5.0", "hyper_parameters": {}}


def _compiled_in_part(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name.replace("transformer_encoder.", "transformer_encoder._orig_mod."): state[name] for name in state}


def _averaged(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    spoiled = {name: value + 1 for name, value in state.items()}
    average = {"n_averaged": torch.tensor(7), **{f"module.{name}": value for name, value in state.items()}}
    return {"params": spoiled, "model": spoiled, "ema": average}


WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, Any]]] = {
    "of DataParallel": _before_names("module."),
    "of torch.compile": _before_names("_orig_mod."),
    "compiled in a part": _compiled_in_part,
    "of both": _before_names("module._orig_mod."),
    "of Lightning": _lightning,
    "of a script": _under("model_state_dict"),
    "the running average": _under("params_ema"),
    "the running average beside the weights": _averaged,
    "deep": lambda state: _under("state_dict", "params")(_before_names("model.module.")(state)),
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("name", ["pyiqa/10", pytest.param("classic", marks=pytest.mark.slow)])
def test_what_training_frameworks_put_around_a_state_dict_is_taken_off(
    foreign: Callable[[str], Path], tmp_path: Path, kind: str, name: str
) -> None:
    content = torch.load(foreign(name), weights_only=True)
    if name == "classic":
        wrapped = {key: WRAPPED[kind](part) for key, part in content.items()}  # two models, each in a wrapper
    else:
        wrapped = WRAPPED[kind](content["params"])
    torch.save(wrapped, tmp_path / "wrapped.ckpt")
    assert_equal(checkpoint.load(tmp_path / "wrapped.ckpt", 64, 96), checkpoint.load(foreign(name), 64, 96))


def test_two_state_dicts_may_lie_under_a_key_together(foreign: Callable[[str], Path], tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": torch.load(foreign("classic"), weights_only=True)}, tmp_path / "both.ckpt")
    assert_equal(checkpoint.load(tmp_path / "both.ckpt", 64, 96), checkpoint.load(foreign("classic"), 64, 96))


def test_a_checkpoint_of_ours_whose_names_were_wrapped_is_loaded_by_its_spec(tmp_path: Path) -> None:
    model = lively_model("tiny")
    tensors = {f"module.{name}": value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, tmp_path / "wrapped.safetensors", {"musiq.spec": model.spec.to_json()})
    assert_equal(checkpoint.load(tmp_path / "wrapped.safetensors"), model)


def test_tensors_of_ours_without_a_spec_are_refused_by_name(tmp_path: Path) -> None:
    state = lively_model("tiny").state_dict()
    torch.save({"state": {"epoch": 1}, "model": state}, tmp_path / "state.pt")  # as a run's own state
    torch.save(state, tmp_path / "plain.pt")
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "plain.safetensors")
    for name in ("state.pt", "plain.pt", "plain.safetensors"):
        with pytest.raises(MusiqError, match=r"has no Spec, without which .* such as best\.safetensors"):
            checkpoint.load(tmp_path / name)


@pytest.mark.parametrize(
    ("prefix", "surplus", "says"),
    [
        (
            "net.",
            {},
            "Before the pyiqa layout's names stands 'net.', no prefix that is known (module., _orig_mod., model.)",
        ),
        ("model.net.", {}, "stands 'net.', no prefix that is known"),
        ("model.", {"loss.weight": torch.ones(1)}, "stands 'model.', not before all of them (loss.weight)"),
    ],
)
def test_a_prefix_that_is_left_over_is_named(
    foreign: Callable[[str], Path], tmp_path: Path, prefix: str, surplus: dict[str, torch.Tensor], says: str
) -> None:
    state = torch.load(foreign("pyiqa/1"), weights_only=True)
    torch.save({prefix + name: value for name, value in state.items()} | surplus, tmp_path / "x.pth")
    with pytest.raises(MusiqError) as caught:
        checkpoint.load(tmp_path / "x.pth")
    assert says in str(caught.value)
    assert "x.pth" in str(caught.value)


def test_a_prefix_that_is_left_over_of_ours_is_named(tmp_path: Path) -> None:
    model = lively_model("tiny")
    tensors = {f"net.{name}": value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, tmp_path / "x.safetensors", {"musiq.spec": model.spec.to_json()})
    with pytest.raises(MusiqError, match=r"Before this project's names stands 'net\.'"):
        checkpoint.load(tmp_path / "x.safetensors")


def test_weights_that_are_no_numbers_are_named(foreign: Callable[[str], Path], tmp_path: Path) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        state["gn_root.bias"][3] = torch.nan
        state["gn_root.bias"][7] = -torch.inf
        state["head.bias"][0] = torch.inf

    with pytest.raises(
        MusiqError, match=r"gn_root\.bias holds 1 NaN and 1 infinite of 64 values, as do 1 more tensors: "
    ):
        checkpoint.load(damaged(tmp_path / "x.pth", spoil))
    with np.load(foreign("google/single")) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["opt/target/gn_root/scale"][..., 5] = np.inf
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(MusiqError, match=r"x\.npz: opt/target/gn_root/scale holds 1 infinite of 64 values"):
        checkpoint.load(tmp_path / "x.npz")
    model = lively_model("tiny")
    model.state_dict()["norm.weight"][:] = torch.nan
    checkpoint.save(model, tmp_path / "x.safetensors")
    with pytest.raises(MusiqError, match=r"norm\.weight holds \d+ NaN of \d+ values: its training had failed"):
        checkpoint.load(tmp_path / "x.safetensors")
