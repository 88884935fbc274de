"""Checkpoints: ours come back unchanged, foreign ones score as their own implementations do, broken ones say why."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from musiq.errors import MusiqError
from musiq.images.decode import decode
from musiq.model import checkpoint
from musiq.spec import Spec
from tests.full_disk import files_of_at_most
from tests.musiq.model.foreign_files import damaged
from tests.recipe import lively_model, photo, torch_weight

# Scores by the other implementations themselves: (weights, height, width, image's seed, score, tolerance).
GOLDEN = [
    ("classic", 768, 1024, 10, 1.8864147663116455, 2e-4),
    ("classic", 768, 1024, 11, 1.2084592580795288, 2e-4),
    ("pyiqa/1", 768, 1024, 10, -3.0772626399993896, 1e-4),
    ("pyiqa/1", 500, 333, 21, -3.553765296936035, 1e-4),
    ("pyiqa/1", 341, 512, 22, -2.882305860519409, 1e-4),
    ("pyiqa/10", 768, 1024, 10, 5.154624938964844, 1e-4),
    ("pyiqa/10", 500, 333, 21, 4.323112964630127, 1e-4),
    ("pyiqa/10", 341, 512, 22, 4.809212684631348, 1e-4),
    ("google/1", 768, 1024, 10, 1.611842705775071, 1e-4),
    ("google/1", 500, 333, 21, 2.2783825572351124, 1e-4),
    ("google/1", 341, 512, 22, 2.1117405952026904, 1e-4),
    ("google/10", 768, 1024, 10, 5.406770469224117, 1e-4),
    ("google/10", 500, 333, 21, 6.607657956871135, 1e-4),
    ("google/10", 341, 512, 22, 5.874895606830544, 1e-4),
    ("google/single", 768, 1024, 10, 1.025518306595528, 1e-4),
    ("google/single", 500, 333, 21, 2.0311914892734637, 1e-4),
]
GOLDEN_SHARES = {
    (
        "pyiqa/10",
        341,
    ): "0.0051451 0.3642775 0.0312051 0.1612773 0.0361993 0.0071831 0.1930729 0.1270373 0.0011402 0.0734622",
    (
        "google/10",
        341,
    ): "0.0603871 0.1253162 0.0761874 0.0571089 0.0064736 0.2051977 0.0924628 0.245008 0.0825621 0.0492961",
}


@pytest.mark.parametrize(("name", "height", "width", "seed", "score", "tolerance"), GOLDEN)
def test_a_foreign_checkpoint_scores_as_its_own_implementation_does(
    foreign: Callable[[str], Path], name: str, height: int, width: int, seed: int, score: float, tolerance: float
) -> None:
    model = checkpoint.load(foreign(name), height, width)
    with torch.inference_mode():
        found = model.predict(torch.from_numpy(photo(height, width, seed))[None])
    assert abs(float(found[0]) - score) <= tolerance
    if (name, height) in GOLDEN_SHARES:
        shares = [float(share) for share in GOLDEN_SHARES[name, height].split()]
        np.testing.assert_allclose(found[1][0].numpy(), shares, atol=1e-4)


def test_flax_files_may_name_their_attention_otherwise_and_store_norms_as_4d(
    foreign: Callable[[str], Path], tmp_path: Path
) -> None:
    with np.load(foreign("google/single")) as file:
        arrays = {name.replace("MultiHeadDotProductAttention_1", "SelfAttention_1"): file[name] for name in file.files}
    for name in list(arrays):
        if "gn" in name:
            arrays[name] = arrays[name].reshape(1, 1, 1, -1)
    arrays["opt/state/step"] = np.int64(7)  # the optimiser's, none of the model's
    np.savez(tmp_path / "other.npz", **arrays)
    one, other = checkpoint.load(foreign("google/single"), 64, 96), checkpoint.load(tmp_path / "other.npz", 64, 96)
    for (name, value), found in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, found), name


def test_equal_models_make_equal_files(tmp_path: Path) -> None:
    model = lively_model("tiny", height=64, width=64)
    for name in "abcdef":
        checkpoint.save(model, tmp_path / name, {"epoch": 3})
    assert len({(tmp_path / name).read_bytes() for name in "abcdef"}) == 1
    with safe_open(tmp_path / "a", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert set(file.keys()) == set(model.state_dict())


def test_a_checkpoint_of_ours_comes_back_bit_for_bit_with_spec_and_notes(tmp_path: Path) -> None:
    model = lively_model("tiny", outputs=5, score_range=(1.0, 5.0), target="mean rating (1-5)")
    checkpoint.save(model, tmp_path / "model.safetensors", {"srcc": 0.5})
    back = checkpoint.load(tmp_path / "model.safetensors")
    assert back.spec == model.spec
    assert checkpoint.notes(tmp_path / "model.safetensors") == {"srcc": 0.5}
    for (name, value), found in zip(model.state_dict().items(), back.state_dict().values(), strict=True):
        assert torch.equal(value, found), name


def test_an_imported_checkpoint_saved_as_ours_keeps_even_the_embedding_that_is_never_used(
    foreign: Callable[[str], Path], tmp_path: Path
) -> None:
    model = checkpoint.load(foreign("classic"), 64, 96)
    expected = torch_weight("transformer.transformer.encoder.scale_2_embedding", (1, 384, 1, 1)).ravel()
    checkpoint.save(model, tmp_path / "ours.safetensors")
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "ours.safetensors").embed.scale[2].detach(), expected)


def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(lively_model("tiny"), path)
    before = path.read_bytes()
    with files_of_at_most(len(before) // 2), pytest.raises(MusiqError, match=r"Cannot write .*Give a folder with room"):
        checkpoint.save(lively_model("tiny"), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_may_be_read_by_whom_other_new_files_may_be(tmp_path: Path) -> None:
    checkpoint.save(lively_model("tiny"), tmp_path / "model.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_missing_surplus_and_misshapen_tensors_are_named_with_what_was_expected(tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        del state["gn_root.bias"]
        state["extra.weight"] = torch.zeros(3)
        state["head.weight"] = torch.zeros(1, 7)

    with pytest.raises(MusiqError) as caught:
        checkpoint.load(damaged(tmp_path / "x.pth", change))
    message = str(caught.value)
    assert "missing gn_root.bias [64]" in message
    assert "surplus extra.weight [3]" in message
    assert "head.weight is [1, 7], expected [1, 384]" in message
    assert "x.pth" in message


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("this code must never run",))


def _pickled(path: Path) -> None:
    torch.save({"model": _Evil()}, path)


def _object_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{"opt/target/x": np.array([_Evil()], dtype=object)})


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (lambda path: path.write_text("not a checkpoint at all"), "is no checkpoint"),
    "a pickle that runs code": (_pickled, "could run code"),
    "an npz that runs code": (_object_npz, "broken or holds Python objects"),
    "an old pickle": (lambda path: path.write_bytes(pickle.dumps(_Evil())), "could run code"),
    "other tensors": (lambda path: torch.save({"fc.weight": torch.zeros(2)}, path), "no known MUSIQ layout"),
    "a list": (lambda path: torch.save([torch.zeros(2)], path), "holds a list"),
}


@pytest.mark.parametrize("kind", list(BAD_FILES))
def test_a_bad_checkpoint_is_refused_with_one_clear_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, reason = BAD_FILES[kind]
    path = tmp_path / "bad.pth"
    make(path)
    with pytest.raises(MusiqError, match=reason) as caught:
        checkpoint.load(path)
    assert "bad.pth" in str(caught.value)
    assert "must never run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["classic", "google/single"])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(
    foreign: Callable[[str], Path], tmp_path: Path, name: str, share: float
) -> None:
    data = foreign(name).read_bytes()
    cut = tmp_path / "cut.bin"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MusiqError, match=r"cut\.bin"):
        checkpoint.load(cut)


def test_a_truncated_checkpoint_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    checkpoint.save(lively_model("tiny"), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MusiqError, match="broken"):
        checkpoint.load(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(MusiqError, match=r"nothing\.pth: No such file"):
        checkpoint.load(tmp_path / "nothing.pth")


# The official scores of five TID2013 images (512x384), by the original model with the published weights. The tolerance
# allows for another framework's arithmetic. This has not been run by us: weights and images are the user's.
OFFICIAL = {
    "koniq": [12.494, 75.332, 73.429, 75.188, 36.938],
    "ava": [3.398, 5.648, 4.635, 5.186, 4.128],
    "paq2piq": [46.035, 72.660, 73.625, 74.361, 69.006],
    "spaq": [17.685, 70.492, 78.740, 79.015, 49.105],
}


@pytest.mark.weights
@pytest.mark.parametrize("name", list(OFFICIAL))
def test_the_published_weights_give_the_official_scores(name: str, request: pytest.FixtureRequest) -> None:
    weights = sorted(request.config.getoption("--weights-dir").glob(f"*{name}*.npz"))
    folder: Path = request.config.getoption("--calibration-images")
    assert weights, f"no *{name}*.npz in --weights-dir"
    model = checkpoint.load(weights[0], 384, 512)
    for image_name, score in zip(("I03", "I04", "I06", "I08", "I19"), OFFICIAL[name], strict=True):
        file = next(path for path in folder.iterdir() if path.stem.upper() == image_name)
        with torch.inference_mode():
            found = float(model.predict(torch.from_numpy(decode(file))[None])[0])
        assert abs(found - score) <= 0.005 * score, f"{image_name}: {found:.3f}, official {score}"


def test_specs_of_foreign_checkpoints_say_what_the_score_means(foreign: Callable[[str], Path]) -> None:
    spec: Spec = checkpoint.load(foreign("pyiqa/10"), 64, 96).spec
    assert (spec.outputs, spec.score_range, spec.target) == (10, (1.0, 10.0), "AVA mean rating (1-10)")
    assert checkpoint.load(foreign("classic"), 64, 96).spec.target == "KonIQ-10k mean rating (1-5)"


def _retyped(path: Path, dtype: torch.dtype) -> Path:
    """A checkpoint of ours with all of its tensors cast."""
    checkpoint.save(lively_model("tiny"), path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118, it is no dict
    save_file(tensors, path, metadata)
    return path


def test_weights_of_8_bit_floats_are_read_and_those_that_are_nan_named(tmp_path: Path) -> None:
    path = _retyped(tmp_path / "fp8.safetensors", torch.float8_e4m3fn)
    model = checkpoint.load(path)
    assert all(value.dtype == torch.float32 for value in model.state_dict().values() if value.is_floating_point())
    with torch.no_grad():
        model.embed.class_token.fill_(float("nan"))
    checkpoint.save(model, path)
    with pytest.raises(MusiqError, match=r"embed\.class_token holds 96 NaN of 96 values"):
        checkpoint.load(path)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_weights_that_are_no_floats_are_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    path = _retyped(tmp_path / "whole.safetensors", dtype)
    with pytest.raises(MusiqError, match=r"\w+ is of (int32|bool), as are \d+ more tensors; weights must be floats"):
        checkpoint.load(path)
