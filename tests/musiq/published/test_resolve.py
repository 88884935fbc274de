"""A published model's name is a checkpoint and a file to score with; a file of that name comes first."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import musiq
from musiq import bundled
from musiq.artifact import read_record
from musiq.cli import main as score
from musiq.errors import MusiqError, pip_install
from musiq.presets import PRESETS
from musiq.published import checkpoint_path, describe, model_path, resolve
from musiq.published.cache import home
from musiq.published.table import PUBLISHED
from musiq_bench.cli import main as bench
from musiq_export.cli import main as export
from tests.musiq.published.publisher import Publisher
from tests.recipe import photo

AVA = "AVA mean rating (1-10)"


def without(package: str) -> Callable[[str], object | None]:
    """How a machine without it answers when it is looked for."""
    from importlib.util import find_spec

    return lambda name: None if name == package else find_spec(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_agrees_with_itself(name: str) -> None:
    model = PUBLISHED[name]
    publisher, dataset = name.split("-")
    assert model.address.startswith("https://")
    assert f"{dataset}_ckpt" in model.file
    assert model.preset in PRESETS
    assert model.preset.startswith(publisher) or model.preset == "musiq-pyiqa"
    assert (model.score_range, model.target) == ((1.0, 10.0), AVA) or model.target.endswith("MOS (0-100)")
    kind, _, digits = model.hash.partition(":")
    assert (kind, digits) == ("", "") or re.fullmatch("[0-9a-f]{8,64}", digits)
    if publisher == "pyiqa":  # its file names end in the first digits of their hashes
        assert digits[:8] == model.file.removesuffix(".pth")[-8:]
        assert "non-commercial" in model.notice


@pytest.mark.parametrize(
    ("name", "target", "score_range", "licence"),
    [
        ("musiq-koniq", "KonIQ-10k MOS (0-100)", (0.0, 100.0), "Apache-2.0"),
        ("musiq-ava", AVA, (1.0, 10.0), "Apache-2.0"),
        ("pyiqa-koniq", "KonIQ-10k MOS (0-100)", (0.0, 100.0), "CC BY-NC-SA 4.0"),
    ],
)
def test_a_checkpoint_by_name_has_the_published_weights_and_says_what_they_are(
    name: str,
    target: str,
    score_range: tuple[float, float],
    licence: str,
    mirror: Publisher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import dataclasses

    from musiq.model import checkpoint

    monkeypatch.setitem(
        PUBLISHED, name, dataclasses.replace(PUBLISHED[name], hash="", size=None)
    )  # small files have others
    path = checkpoint_path(name)
    model, original = checkpoint.load(path), checkpoint.load(path.with_name(PUBLISHED[name].file))
    state = original.state_dict()
    assert all(np.array_equal(value, state[key]) for key, value in model.state_dict().items())
    assert (model.spec.target, model.spec.score_range) == (target, score_range)
    assert model.spec.source.startswith(f"{name}: ")
    assert licence in model.spec.source
    assert checkpoint.notes(path)["licence"] == licence
    assert model.spec.any_size


def test_pyiqas_licence_is_told_once(mirror: Publisher, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with pytest.raises(MusiqError, match="another file"):  # the small file is not the published one
            checkpoint_path("pyiqa-koniq")
    assert capfd.readouterr().err.count("non-commercial") == 1
    checkpoint_path("musiq-koniq")
    assert "non-commercial" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_name_is_exported_once_and_scores_like_the_weights(
    cache: Path, mirror: Publisher, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    from musiq.model import checkpoint
    from musiq_bench.plan.models import describe as candidate
    from musiq_bench.plan.models import reference_of

    images = [photo(64, 96, 1), photo(75, 50, 2)]
    with musiq.load("musiq-koniq") as scorer:
        scores = [scorer.score(image) for image in images]
        assert (scorer.spec.target, scorer.spec.any_size) == ("KonIQ-10k MOS (0-100)", True)
    assert "musiq-koniq: exporting" in capfd.readouterr().err
    original = checkpoint.load(cache / "musiq-koniq" / "koniq_ckpt.npz")
    with torch.inference_mode():
        expected = [float(original.predict(torch.from_numpy(image)[None])[0]) for image in images]
    assert scores == pytest.approx(expected, abs=1e-3)

    path = model_path("musiq-koniq")
    record = read_record(Path(path))
    assert record is not None
    assert record.check is not None
    assert record.check.passed
    assert "Apache-2.0" in record.spec.source
    reference, note = reference_of(candidate(Path(path)), None)  # musiq-bench finds what it came from
    assert reference is not None
    assert (reference.path.name, note) == ("musiq-koniq.safetensors", "")

    assert model_path("musiq-koniq") == path  # as it is
    assert mirror.asked == ["/koniq_ckpt.npz"]


def test_what_was_exported_scores_without_torch_or_a_network(
    cache: Path, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "musiq-koniq").mkdir(parents=True)
    for ending in ("", ".json"):
        shutil.copy(f"{tiny_onnx}{ending}", cache / "musiq-koniq" / f"musiq-koniq.onnx{ending}")
    monkeypatch.setenv("MUSIQ_OFFLINE", "1")
    monkeypatch.setattr(resolve, "find_spec", without("torch"))
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", photo(192, 256, 1)[..., ::-1])
    result = CliRunner().invoke(score, ["--model", "musiq-koniq", "photo.png"])
    assert result.exit_code == 0, result.output
    row = result.stdout.splitlines()[1].split(",")
    with musiq.load(tiny_onnx) as scorer:
        assert float(row[1]) == pytest.approx(scorer.score("photo.png"))
    assert row[-1].startswith("musiq-koniq@")
    assert [path.name for path in (cache / "musiq-koniq").iterdir() if path.name == ".lock"] == []


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (score, ["--model", "musiq-ava", "photo.jpg"]),
        (export, ["--checkpoint", "musiq-ava"]),
        (bench, ["--images", "photos", "--models", "musiq-ava"]),
        (bench, ["--images", "photos", "--models", "model.onnx", "--checkpoint", "musiq-ava"]),
    ],
)
def test_each_command_takes_a_name(
    command: click.Command, arguments: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSIQ_OFFLINE", "1")
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 1
    assert f"put it at {cache / 'musiq-ava' / 'ava_ckpt.npz'}." in result.stderr


def test_without_torch_a_name_says_what_to_install_and_what_to_copy(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "find_spec", without("torch"))
    with pytest.raises(MusiqError) as problem:
        musiq.load("musiq-koniq")
    assert f"needs torch: {pip_install('cpu,train')}" in str(problem.value)
    assert f"copy {cache / 'musiq-koniq'} from a machine" in str(problem.value)


def test_training_starts_from_a_name(mirror: Publisher, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from musiq.datasets import Dataset, Labelled
    from musiq.model import checkpoint
    from musiq.training.initial_model import build_model
    from tests.musiq.training.small_model import RECIPE

    items = tuple(Labelled(name, tmp_path / name, mos, "train") for name, mos in (("a.png", 1.0), ("b.png", 2.0)))
    recipe = dataclasses.replace(RECIPE, start="musiq-koniq", height=64, width=64)
    model, *_ = build_model(recipe, Dataset(items, tmp_path, "stars"))
    original = checkpoint.load(checkpoint_path("musiq-koniq")).state_dict()
    assert np.array_equal(model.state_dict()["embed.position"], original["embed.position"])
    assert model.spec.source == "train.py, from musiq-koniq"


def test_a_file_of_the_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("musiq-koniq").touch()
    assert model_path("musiq-koniq") == "musiq-koniq"
    assert checkpoint_path(Path("musiq-koniq")) == Path("musiq-koniq")
    assert model_path("runs/best.safetensors") == "runs/best.safetensors"


def test_the_model_in_the_box_has_a_name_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    for ending in (".onnx", ".safetensors"):
        (tmp_path / f"{bundled.NAME}{ending}").touch()
    assert model_path(bundled.NAME) == tmp_path / f"{bundled.NAME}.onnx"
    assert checkpoint_path(bundled.NAME) == tmp_path / f"{bundled.NAME}.safetensors"
    assert describe().startswith(f"{bundled.NAME}: ")


def test_an_unknown_name_is_answered_with_the_names_there_are() -> None:
    result = CliRunner().invoke(score, ["--model", "musiq-konik", "photo.jpg"])
    assert result.exit_code == 1
    assert "no model has that name" in result.stderr
    assert ", ".join(PUBLISHED) in result.stderr


def test_the_list_says_licences_addresses_and_what_is_here(cache: Path, mirror: Publisher) -> None:
    result = CliRunner().invoke(score, ["--list-models"])
    assert result.exit_code == 0
    for name, model in PUBLISHED.items():
        assert f"{name}: {model.target}" in result.stdout
        assert model.address in result.stdout
        assert model.licence in result.stdout
    assert result.stdout.count("nothing yet") == len(PUBLISHED)
    checkpoint_path("musiq-koniq")
    assert f"checkpoint, download, in {cache / 'musiq-koniq'}" in describe()


def test_the_cache_is_where_the_platform_has_caches_unless_the_user_says(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pooch

    assert home() == cache
    monkeypatch.delenv("MUSIQ_HOME")
    assert home() == Path(pooch.os_cache("musiq"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == Path(pooch.os_cache("musiq"))
