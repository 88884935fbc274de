"""From options to a dataset: near duplicates kept together, reported or dropped; several datasets on one scale."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.io import savemat
from scipy.stats import spearmanr

import train
from musiq.datasets.dataset import SPLITS, Dataset, dataset_numbers
from musiq.datasets.label_files import read_manifest, write_manifest
from musiq.datasets.load import THUMBNAILS, DataOptions, join, open_dataset, parse_data
from musiq.errors import MusiqError


def opened(tmp_path: Path, **options: Any) -> tuple[Dataset, str]:
    lines: list[str] = []
    dataset = open_dataset(DataOptions(**options), tmp_path / "runs/run", lines.append)
    return dataset, "\n".join(lines)


def scene(rng: np.random.Generator) -> np.ndarray:
    """An image that is like no other: coarse random blobs."""
    return cv2.resize(rng.integers(0, 256, (8, 10, 3)).astype(np.uint8), (80, 64), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 scenes, each in two exposures: 0a.png, 0b.png, ...; labels.csv has no split, given.csv one that tears pairs."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    rows = []
    for i in range(40):
        image = scene(rng)
        for letter, copy in (("a", image), ("b", (image * 0.6).astype(np.uint8))):
            cv2.imwrite(str(folder / f"{i}{letter}.png"), copy)
            given = "train" if letter == "a" or i >= 7 else "val" if i < 3 else "test"
            rows.append([f"{i}{letter}.png", i + rng.random(), given])
    for name, columns in (("labels.csv", 2), ("given.csv", 3)):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([["image", "mos", "split"][:columns], *(row[:columns] for row in rows)])
    return folder


def torn(dataset: Dataset) -> int:
    split = {item.image: item.split for item in dataset.items}
    return sum(split.get(f"{i}a.png") != split.get(f"{i}b.png") for i in range(40))


def test_a_drawn_split_keeps_two_exposures_of_a_scene_together_unless_told_to_keep_them(
    pairs: Path, tmp_path: Path
) -> None:
    dataset, said = opened(tmp_path, labels=pairs / "labels.csv")
    assert torn(dataset) == 0
    assert [len(dataset.split(name)) for name in SPLITS] == [64, 8, 8]
    assert "drew 64 train, 8 val, 8 test with seed 0" in said
    assert (tmp_path / "runs/run" / THUMBNAILS).exists()
    kept, _ = opened(tmp_path / "other", labels=pairs / "labels.csv", near_duplicates="keep")
    assert torn(kept) > 0
    assert not (tmp_path / "other").exists()


def test_a_given_split_is_reported_and_marked_not_changed(pairs: Path, tmp_path: Path) -> None:
    dataset, said = opened(tmp_path, labels=pairs / "given.csv")
    asked = read_manifest(pairs / "given.csv")
    assert [item.split for item in dataset.items] == [item.split for item in asked.items]
    assert "3 val and 4 test images have a near duplicate in train" in said
    marked = {item.image for item in dataset.items if item.extra["near_duplicate_in_train"] == "1"}
    assert marked == {f"{i}b.png" for i in range(7)}
    write_manifest(dataset, tmp_path / "split.csv")
    assert read_manifest(tmp_path / "split.csv", dataset.root).items == dataset.items


def test_copies_of_test_images_can_be_dropped_from_train(pairs: Path, tmp_path: Path) -> None:
    dataset, said = opened(tmp_path, labels=pairs / "given.csv", near_duplicates="drop")
    assert "dropped 7 images of train" in said
    assert (len(dataset.split("train")), len(dataset.split("val")), len(dataset.split("test"))) == (66, 3, 4)
    assert not {f"{i}a.png" for i in range(7)} & {item.image for item in dataset.items}


def test_a_second_run_beside_the_first_takes_over_its_thumbnails(pairs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pairs, tmp_path / "pairs")
    first, _ = opened(tmp_path, labels=folder / "labels.csv")
    for image in folder.glob("*.png"):  # of the same size and time, and no images any more
        status = image.stat()
        image.write_bytes(bytes(status.st_size))
        os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = open_dataset(DataOptions(labels=folder / "labels.csv"), tmp_path / "runs/next", lambda line: None)
    assert second == first
    assert torn(second) == 0
    assert (tmp_path / "runs/next" / THUMBNAILS).exists()


def test_a_smaller_sample_looks_at_no_other_images(pairs: Path, tmp_path: Path) -> None:
    dataset, _ = opened(tmp_path, labels=pairs / "labels.csv", max_images=20)
    assert len(dataset.items) == 20
    with np.load(tmp_path / "runs/run" / THUMBNAILS) as kept:
        seen = {key.split(" ")[0] for key in kept["keys"].tolist()}
    assert seen == {str(item.path.resolve()) for item in dataset.items}


@pytest.mark.parametrize(
    ("data", "roots", "labels", "says"),
    [
        (("spaq",), (), None, r"--data spaq needs --root DIR"),
        (("spaq", "ava"), (Path("a"),), None, r"--data ava needs --root DIR"),
        (("spaq",), (Path("a"), Path("b")), None, r"--root b belongs to no --data"),
        (("spaq=a", "spaq=b"), (), None, "named twice"),
        (("spaq=a",), (), Path("x.csv"), "--labels goes with"),
        ((), (Path("a"), Path("b")), Path("x.csv"), "--labels goes with"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    data: tuple[str, ...], roots: tuple[Path, ...], labels: Path | None, says: str
) -> None:
    with pytest.raises(MusiqError, match=says):
        parse_data(data, roots, labels)


def test_one_split_file_is_for_one_dataset(tmp_path: Path) -> None:
    with pytest.raises(MusiqError, match="--split is for one dataset"):
        opened(tmp_path, data=("spaq=a", "ava=b"), split=tmp_path / "split.csv")


def test_clives_split_that_ships_has_all_its_images_whose_names_are_numbers(tmp_path: Path) -> None:
    split = Path(train.__file__).parent / "configs/clive-split.csv"
    numbers = [row["image"] for row in csv.DictReader(split.open())]
    root = tmp_path / "ChallengeDB_release"
    names = [f"t{k}.bmp" for k in range(1, 8)] + [f"{n}.{'bmp' if int(n) < 500 else 'JPG'}" for n in numbers]
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = [np.array([name]) for name in names]
    for folder in ("Data", "Images"):
        (root / folder).mkdir(parents=True)
    for name in names[7:]:
        (root / "Images" / name).touch()
    scores = np.linspace(0, 100, len(names))[None]
    values = {"AllImages_release": cells, "AllMOS_release": scores, "AllStdDev_release": scores / 5}
    for key, value in values.items():
        savemat(root / f"Data/{key}.mat", {key: value})
    dataset, said = opened(tmp_path, data=(f"clive={root}",), split=split, near_duplicates="keep")
    assert len(names) == 1169
    assert (dataset.counts(), said) == ("813 train, 116 val, 233 test", "")


def test_names_and_folders_belong_together_in_either_form() -> None:
    found = parse_data(("spaq", "ava=x=y", "biq2021"), (Path("a"), Path("b")), None)
    assert found == [("spaq", Path("a")), ("ava", Path("x=y")), ("biq2021", Path("b"))]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of one spread seen by two datasets: biq2021 rates it 0-1, paq2piq on another scale, bent. 60 images each."""
    folder, rng = tmp_path_factory.mktemp("two"), np.random.default_rng(0)
    (folder / "biq/Images").mkdir(parents=True)
    (folder / "flive/blur_dataset").mkdir(parents=True)
    rows: dict[str, list[list[object]]] = {"biq": [], "flive": []}
    for i in range(120):
        sigma = rng.uniform(1, 60)
        # Smooth below the noise, and no two alike.
        below = cv2.resize(rng.integers(100, 150, (3, 4)).astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
        image = np.clip(below[:, :, None] + rng.normal(0, sigma, (64, 64, 3)), 0, 255).astype(np.uint8)
        name, path, score = (
            ("biq", f"{i}.png", 1 - sigma / 60) if i % 2 else ("flive", f"blur_dataset/{i}.png", 90 - sigma**2 / 60)
        )
        cv2.imwrite(str(folder / name / ("Images" if i % 2 else "") / path), image)
        rows[name].append([path, score])
    for table, header, part in (
        ("biq/Train (Images and MOS).csv", "Image Name", rows["biq"][:44]),
        ("biq/Test (Images and MOS).csv", "Image Name", rows["biq"][44:]),
        ("flive/labels_image.csv", "name", rows["flive"]),
    ):
        with (folder / table).open("w", newline="") as file:
            csv.writer(file).writerows([[header, "mos" if header == "name" else "MOS"], *part])
    return folder


def test_joined_labels_are_z_scores_within_their_dataset_and_keep_what_they_were(two: Path, tmp_path: Path) -> None:
    dataset, _ = opened(tmp_path, data=(f"biq2021={two / 'biq'}", f"paq2piq={two / 'flive'}"))
    assert dataset.target == "z-score within its dataset (biq2021: BIQ2021 MOS (0-1), paq2piq: PaQ-2-PiQ MOS (0-100))"
    assert all(item.path == dataset.root / item.image and item.path.is_file() for item in dataset.items)
    assert len({item.image for item in dataset.items}) == 120
    for name in ("biq2021", "paq2piq"):
        train = [item for item in dataset.split("train") if item.dataset == name]
        labels = np.array([float(item.extra["label"]) for item in train])
        expected = (labels - labels.mean()) / labels.std()
        assert [item.mos for item in train] == pytest.approx(expected)
        assert min(sum(item.dataset == name for item in dataset.split(split)) for split in SPLITS) > 3
    assert sorted(set(dataset_numbers(dataset.items))) == [0, 1]
    write_manifest(dataset, tmp_path / "split.csv")
    again = read_manifest(tmp_path / "split.csv", dataset.root)
    assert again.items == dataset.items


def test_joined_shares_keep_their_mean_rating(tmp_path: Path) -> None:
    parts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "l.csv").write_text("image,mos,split,c1,c2\n1.png,1.5,train,1,1\n2.png,1.75,val,1,3\n")
        parts.append(read_manifest(tmp_path / name / "l.csv"))
    dataset = join(parts, ["one", "two"], outputs=2)
    assert ([item.mos for item in dataset.items], dataset.score_range) == ([1.5, 1.75] * 2, (1, 2))
    assert [item.image for item in dataset.items] == ["one/1.png", "one/2.png", "two/1.png", "two/2.png"]
    with pytest.raises(MusiqError, match="one has no two train images with different labels"):
        join(parts, ["one", "two"])


@pytest.mark.slow
def test_two_datasets_that_rate_one_quality_on_two_scales_train_to_one_ranking(two: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import train

    out = tmp_path / "run"
    options = [
        "--preset",
        "tiny",
        "--height",
        "64",
        "--width",
        "64",
        "--workers",
        "0",
        "--cpu",
        "--epochs",
        "10",
        "--scales",
        "native",
    ]
    options += ["--data", "biq2021", "--root", str(two / "biq"), "--data", f"paq2piq={two / 'flive'}"]
    result = CliRunner().invoke(train.main, [*options, "--batch-size", "8", "--lr", "2e-3", "--out", str(out)])
    assert result.exit_code == 0, result.output
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = np.array([float(row["score"]) for row in rows])
    assert {row["dataset"] for row in rows} == {"biq2021", "paq2piq"}
    # The noise itself, which neither scale says: one order over both datasets' images.
    labels = np.array([float(row["label"]) for row in rows])
    noise = np.where([row["dataset"] == "biq2021" for row in rows], 60 * (1 - labels), np.sqrt(60 * abs(90 - labels)))
    assert spearmanr(scores, -noise).statistic > 0.7
    assert spearmanr(labels, -noise).statistic < 0.7  # the labels as they were would not have told
