"""The images and labels of a run: chosen, decoded, kept for each size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from musiq.errors import MusiqError
from musiq_bench.plan.images import Labels, choose, find_labels
from musiq_bench.plan.job import Opened
from tests.bench_place import SPEC

pytest_plugins = ["tests.bench_fixtures"]


def test_a_public_datasets_folder_gives_images_and_labels(tmp_path: Path) -> None:
    (tmp_path / "1024x768").mkdir()
    (tmp_path / "512x384").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        for folder in ("1024x768", "512x384"):  # as its authors publish it: every image is there twice
            cv2.imwrite(str(tmp_path / folder / name), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "koniq-10k.txt").write_text("s1\ta.jpg\t3.5\ns2\tb.jpg\t2.5\ns3\tc.jpg\t1.5\n")
    for source in (None, str(tmp_path), f"koniq10k={tmp_path}"):
        labels = find_labels([tmp_path], source, None)
        assert labels is not None
        found = choose([tmp_path], labels, 0, tmp_path)
        assert [str(file.relative_to(tmp_path)) for file in found.files] == [f"1024x768/{n}.jpg" for n in "abc"]
        assert labels.of(found.files) == [3.5, 2.5, 1.5]
        assert labels.dataset.target == "KonIQ-10k mean rating (1-5)"
    assert find_labels([tmp_path / "512x384"], None, None) is None
    with pytest.raises(MusiqError, match="is no dataset that is known here"):
        find_labels([tmp_path], str(tmp_path / "512x384"), None)


def test_images_are_thinned_evenly_and_kept_for_each_size(place: Path, tmp_path: Path) -> None:
    labels = Labels.read(place / "labels.csv", "all")
    few = choose([place / "photos"], labels, 4, tmp_path)
    assert [file.name for file in few.files] == ["00.png", "03.png", "06.png", "09.png"]
    assert few.found == 12
    raw = np.fromfile(few.decoded(SPEC.height, SPEC.width), np.uint8).reshape(4, SPEC.height, SPEC.width, 3)
    assert (raw[1] == cv2.imread(str(few.files[1]))[:, :, ::-1]).all()
    assert few.decoded(SPEC.height, SPEC.width).stat().st_size == raw.size
    assert few.fitted == 0
    assert few.decoded(32, 32).stat().st_size == 4 * 32 * 32 * 3
    assert few.fitted == 4


@pytest.fixture
def three_sizes(tmp_path: Path) -> Path:
    folder = tmp_path / "three"
    folder.mkdir()
    for number, (height, width) in enumerate([(64, 96), (30, 20), (100, 50)]):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((height, width, 3), 50 * number, np.uint8))
    return folder


def opened(resize: str) -> Opened:
    return Opened("CPUExecutionProvider", 1.0, 2, None, None, "mos", resize)


def test_a_model_of_any_size_gets_every_image_as_its_policy_says(three_sizes: Path, tmp_path: Path) -> None:
    images = choose([three_sizes], None, 0, tmp_path)
    given = images.for_model(opened("native"), lambda done, of: None)
    assert given.sizes == [(64, 96), (30, 20), (100, 50)]
    assert [Path(file).name for file in given.files] == ["0.png", "1.png", "2.png"]
    raw = np.fromfile(given.raw, np.uint8)
    assert raw.size == 3 * (64 * 96 + 30 * 20 + 100 * 50)
    assert [raw[0], raw[3 * 64 * 96], raw[-1]] == [0, 50, 100]
    assert images.fitted == 0
    assert images.for_model(opened("longer=50"), lambda done, of: None).sizes == [(33, 50), (30, 20), (50, 25)]
    assert images.fitted == 2
    fixed = Opened("CPUExecutionProvider", 1.0, 2, 64, 96, "mos")
    assert images.for_model(fixed, lambda done, of: None).sizes is None


def test_an_image_that_is_too_large_for_models_of_any_size_is_left_out_and_named(
    three_sizes: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(three_sizes / "large.png"), np.zeros((32 * 111, 32 * 111, 3), np.uint8))
    images = choose([three_sizes], None, 0, tmp_path)
    images.decoded(None, None, "native")
    ((path, why),) = images.broken
    assert (path.name, len(images.files)) == ("large.png", 3)
    assert why == "It has 12,321 patches at 3552x3552; models of any size are measured with 12,288 at most."
    images = choose([three_sizes], None, 0, tmp_path)
    images.decoded(64, 96)
    with pytest.raises(MusiqError, match=r"large.png could be scored by other models, and cannot by this one \(It has"):
        images.decoded(None, None, "native")


def test_labels_for_other_images_are_an_error(place: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,mos\nsomewhere.png,3\n")
    with pytest.raises(MusiqError, match=r"None of the 12 images in .* has a label"):
        choose([place / "photos"], Labels.read(tmp_path / "labels.csv", None), 0, tmp_path)
