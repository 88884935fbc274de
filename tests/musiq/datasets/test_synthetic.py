"""The demo's labelled set: really made, from the photographs that are really installed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from skimage.metrics import peak_signal_noise_ratio

from musiq.datasets import synthetic
from musiq.datasets.dataset import Dataset, missing
from musiq.datasets.label_files import read_labels
from musiq.errors import MusiqError

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    result = CliRunner().invoke(synthetic.main, ["--out", str(out), "--versions", "1"])
    assert result.exit_code == 0, result.output
    assert "Synthetic" in result.output
    return out


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return read_labels(folder / "labels.csv")


def test_each_photograph_is_there_as_it_is_and_at_every_level_of_every_distortion(dataset: Dataset) -> None:
    assert len(dataset.items) == len(synthetic.PHOTOGRAPHS) * (1 + 6 * 5)
    assert not missing(dataset.items)
    for item in dataset.items[::20]:
        assert cv2.imread(str(item.path)).shape == (192, 256, 3)


def test_no_photograph_is_in_two_splits(dataset: Dataset) -> None:
    sources = {name: {item.extra["source"] for item in dataset.split(name)} for name in ("train", "val", "test")}
    assert all(sources.values())
    assert sum(map(len, sources.values())) == len(synthetic.PHOTOGRAPHS)


def test_labels_fall_from_5_for_the_photograph_to_1_for_the_strongest_distortion(dataset: Dataset) -> None:
    by_level = {int(item.extra["level"]): item.mos for item in dataset.items}
    assert [by_level[level] for level in range(6)] == [5, 4.2, 3.4, 2.6, 1.8, 1]


@pytest.mark.parametrize("distortion", list(synthetic.DISTORTIONS))
def test_each_level_is_further_from_the_photograph_than_the_one_before(distortion: str) -> None:
    image, distort = synthetic.photograph("coffee.png"), synthetic.DISTORTIONS[distortion]
    levels = (distort(image, level, np.random.default_rng(0)) for level in range(1, 6))
    decibels = [peak_signal_noise_ratio(image, distorted) for distorted in levels]
    assert decibels == sorted(decibels, reverse=True)


def test_the_same_seed_makes_the_same_files_and_another_seed_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sums(root: Path) -> dict[str, str]:
        return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*.png")}

    few = dict(list(synthetic.PHOTOGRAPHS.items())[:2])
    monkeypatch.setattr(synthetic, "PHOTOGRAPHS", few)
    synthetic.make(tmp_path / "again", versions=1, seed=0)
    synthetic.make(tmp_path / "other", versions=1, seed=1)
    again, other = sums(tmp_path / "again"), sums(tmp_path / "other")
    assert len(again) == 2 * len(synthetic.VERSIONS)
    assert again.items() <= sums(folder).items()
    assert not again.items() & other.items()
    labels = (tmp_path / "again/labels.csv").read_text().splitlines()
    assert (folder / "labels.csv").read_text().splitlines()[: len(labels)] == labels


def test_without_the_packages_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(synthetic, "find_spec", lambda name: None if name == "sklearn" else __import__(name).__spec__)
    with pytest.raises(MusiqError, match="pip install scikit-image scikit-learn"):
        synthetic.make(tmp_path)
    assert not list(tmp_path.iterdir())
