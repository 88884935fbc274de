"""A trunk of which a part is frozen: what stays, and that cached maps stand for the images."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")
pytest.importorskip("timm")

from musiq.datasets import Dataset, Labelled  # noqa: E402, after the check for what it needs
from musiq.errors import MusiqError  # noqa: E402
from musiq.model.network import Musiq  # noqa: E402
from musiq.presets import PRESETS, preset  # noqa: E402
from musiq.spec import Scale  # noqa: E402
from musiq.training import evaluate  # noqa: E402
from musiq.training.epoch import epoch_batches  # noqa: E402
from musiq.training.initial_model import prepare_learner, set_train_mode  # noqa: E402
from musiq.training.objective import Objective, targets_of  # noqa: E402
from musiq.training.pretrained_trunk import all_norms, freeze_trunk  # noqa: E402
from musiq.training.recipe import Recipe  # noqa: E402
from musiq.training.run import Run, StopAskedError, stop_on_signals  # noqa: E402
from tests.musiq.training.small_model import RECIPE  # noqa: E402
from tests.recipe import photo  # noqa: E402


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Nine photographs, of which one of val cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    items = [Labelled(f"{i}.png", folder / f"{i}.png", float(i), "val" if i > 6 else "train") for i in range(9)]
    for i, item in enumerate(items):
        cv2.imwrite(str(item.path), photo(70, 80, i))
    items[8].path.write_bytes(b"no image")
    return Dataset(tuple(items), folder, "stars")


@pytest.fixture(autouse=True)
def smaller_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = (Scale(embedding=0), Scale(96, embedding=1))
    monkeypatch.setitem(PRESETS, "lite", dataclasses.replace(PRESETS["lite"], scales=scales))


def recipe_of(tmp_path: Path, **changes: object) -> Recipe:
    """lite with a ResNet-18 whose weights are in a file, frozen to stride 16."""
    import timm

    torch.manual_seed(1)
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "weights.pth")
    how = {"trunk": "timm:resnet18", "trunk_weights": str(tmp_path / "weights.pth"), "freeze": 16, "batch_size": 3}
    return dataclasses.replace(
        RECIPE, preset="lite", flip=True, batch_norm="trained", ema=0.5, optimizer="sgd", **{**how, **changes}
    )


def run_of(recipe: Recipe, dataset: Dataset, folder: Path, cached: bool) -> Run:
    folder.mkdir()
    return Run(accelerate.Accelerator(cpu=True), recipe, dataset, folder, 0, 10.0, cache_frozen=cached)


def two_steps(run: Run) -> tuple[Musiq, list[float], list[float]]:
    """The model after two steps, their losses, and the scores of the validation images."""
    learner = prepare_learner(run)
    targets = targets_of(run.train_items, learner.model.spec, torch.device("cpu"))
    objective = Objective(run.accelerator, run.recipe, targets, share=3)
    set_train_mode(learner.model, run.state.frozen_norms)
    losses = []
    for images, indices in epoch_batches(run, 3):
        losses.append(objective.backward(learner.wrapped, images, indices, len(losses)))
        learner.step()
    maps = None if run.maps is None else run.maps.validation()
    scored = evaluate.score(run.accelerator, learner.kept, run.dataset.split("val"), 2, 0, images=maps)
    return learner.model, losses, scored.scores


@pytest.mark.parametrize("window", [1.0, 0.5])
def test_what_is_frozen_stays_what_it_was_and_cached_maps_train_the_same_model(
    window: float, tmp_path: Path, dataset: Dataset
) -> None:
    import timm

    recipe = recipe_of(tmp_path, window=window)
    model, losses, scores = two_steps(run_of(recipe, dataset, tmp_path / "plain", cached=False))
    began, now = timm.create_model("resnet18").state_dict(), model.trunk.net.state_dict()  # type: ignore[union-attr, operator]
    began.update(torch.load(tmp_path / "weights.pth", weights_only=True))
    same = {name.split(".")[0] for name in now if torch.equal(now[name], began[name])}
    changed = {name.split(".")[0] for name in now if not torch.equal(now[name], began[name])}
    assert same - changed == {"conv1", "bn1", "layer1", "layer2", "layer3"}
    assert changed == {"layer4"}

    run = run_of(recipe, dataset, tmp_path / "cached", cached=True)
    again, cached_losses, cached_scores = two_steps(run)
    np.testing.assert_allclose(cached_losses, losses, rtol=1e-4)
    np.testing.assert_allclose(cached_scores, scores, rtol=1e-3, atol=1e-4)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-3, rtol=1e-3, msg=name)
    files = {path.name for path in run.folder.iterdir()}
    assert files == {"frozen-maps.bin", "frozen-maps.json"}
    run.maps.remove()
    assert not [*run.folder.iterdir()]


def test_a_cache_is_taken_up_where_it_was_left_and_made_anew_for_other_weights(
    tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(recipe_of(tmp_path), dataset, tmp_path / "run", cached=True)
    prepare_learner(run)
    whole, state = np.array(run.maps.rows), run.folder / "frozen-maps.json"
    values = json.loads(state.read_text())
    assert values["done"] == 9
    state.write_text(json.dumps({**values, "done": 6}))
    run.maps.rows[:4] = 7.0
    run.maps.rows[12:] = 0.0
    run.maps.rows.flush()
    prepare_learner(run)
    np.testing.assert_array_equal(run.maps.rows[:4], 7.0)
    np.testing.assert_array_equal(run.maps.rows[12:], whole[12:])
    state.write_text(json.dumps({**values, "key": "another"}))
    prepare_learner(run)
    np.testing.assert_array_equal(run.maps.rows, whole)
    assert capsys.readouterr().out.count("removed at the end of training") == 2


def test_a_signal_ends_the_computing_of_maps_and_a_resumed_run_computes_the_rest(
    tmp_path: Path, dataset: Dataset
) -> None:
    run = run_of(recipe_of(tmp_path), dataset, tmp_path / "run", cached=True)
    with stop_on_signals(run):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopAskedError, match="maps of 3 of 9 images"):
            prepare_learner(run)
    state = run.folder / "frozen-maps.json"
    assert json.loads(state.read_text())["done"] == 3
    run.stop_asked = False
    prepare_learner(run)
    assert json.loads(state.read_text())["done"] == 9


def test_a_cache_without_room_or_without_a_frozen_part_is_refused(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path)
    with pytest.raises(MusiqError, match="give --freeze too"):
        run_of(dataclasses.replace(recipe, freeze=0), dataset, tmp_path / "none", cached=True)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(MusiqError, match=r"--cache-frozen needs .* GB in"):
        prepare_learner(run_of(recipe, dataset, tmp_path / "full", cached=True))


@pytest.mark.parametrize(
    ("trunk", "stride", "last", "next_one"),
    [
        ("tf_efficientnet_lite0", 8, "blocks.2.1.bn3", "blocks.3.0.conv_pw.weight"),
        ("resnet18", 4, "layer1.1.bn2", "layer2.0.conv1.weight"),
        ("", 8, "layer2.3.bn3", "layer3.0.conv1.weight"),
    ],
)
def test_a_trunk_is_frozen_up_to_the_map_of_a_stride(trunk: str, stride: int, last: str, next_one: str) -> None:
    how = {"trunk": f"timm:{trunk}", "trunk_strides": (32,), "layers": 1}
    model = Musiq(dataclasses.replace(preset("lite", 64, 64), **how) if trunk else preset("resnet50", 64, 64))
    norms = freeze_trunk(model, stride)
    assert norms[-1] == f"trunk.net.{last}"
    assert norms == all_norms(model)[: len(norms)]
    learning = [name for name, parameter in model.trunk.named_parameters() if parameter.requires_grad]
    assert learning[0] == f"net.{next_one}"
    assert learning[-1] == "project.bias"


def test_a_trunk_without_stages_is_not_frozen() -> None:
    with pytest.raises(MusiqError, match="--freeze 8 is for trunks over whole scales"):
        freeze_trunk(Musiq(preset("tiny", 64, 64)), 8)
