"""Splits drawn from a seed: whole groups, the same again, and what leaks through a split that was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from musiq.datasets.dataset import KONIQ_RATING, SPLITS, Dataset, Labelled
from musiq.datasets.label_files import read_labels
from musiq.datasets.splits import deal_folds, drop_leaks, group_ids, leaks, mark_leaks, sample, settle_splits
from musiq.errors import MusiqError
from tests.conftest import Write


def images(
    count: int, split: Callable[[int], str] = lambda i: "", name: str = "", **columns: Callable[[int], str]
) -> Dataset:
    """A dataset of so many images that do not exist, with these columns."""
    items = []
    for i in range(count):
        extra = {column: value(i) for column, value in columns.items()} | ({"dataset": name} if name else {})
        items.append(Labelled(f"{i}.png", Path(f"{i}.png"), float(i), split(i), extra=extra))
    return Dataset(tuple(items), Path(), "mos")


def settle_one(dataset: Dataset, seed: int) -> tuple[Dataset, str]:
    (settled,), lines = settle_splits([dataset], seed)
    return settled, " ".join(lines)


def test_the_list_of_mean_ratings_is_another_target_and_splits_80_20_by_scene(tmp_path: Path) -> None:
    path = tmp_path / "koniq-10k.txt"
    path.write_text("".join(f"{i // 2}\t{i}.jpg\t{1 + i / 100}\n" for i in range(200)))
    dataset, line = settle_one(read_labels(path), seed=3)
    assert (dataset.target, dataset.score_range) == (KONIQ_RATING, (1, 5))
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [144, 16, 40]
    assert "seed 3" in line
    scenes = [{item.extra["scene"] for item in dataset.split(name)} for name in ("train", "val", "test")]
    assert not scenes[0] & scenes[1]
    assert not scenes[0] & scenes[2]
    assert not scenes[1] & scenes[2]


def test_a_drawn_split_depends_on_the_seed_alone(write: Write) -> None:
    dataset = read_labels(write("image,mos\n" + "".join(f"{i}.png,{i}\n" for i in range(50))))
    first, again, other = (settle_one(dataset, seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert [len(first.split(name)) for name in ("train", "val", "test")] == [40, 5, 5]


def test_validation_is_drawn_from_train_where_only_it_is_missing(write: Write) -> None:
    rows = "".join(f"{i}.png,{i},{'test' if i < 10 else 'train'}\n" for i in range(50))
    dataset, line = settle_one(read_labels(write("image,mos,split\n" + rows)), seed=0)
    assert {item.image for item in dataset.split("test")} == {f"{i}.png" for i in range(10)}
    assert (len(dataset.split("train")), len(dataset.split("val"))) == (36, 4)
    assert "no validation split" in line


def test_a_half_filled_split_column_is_refused(write: Write) -> None:
    dataset = read_labels(write("image,mos,split\n1.png,1,train\n2.png,2,\n"))
    with pytest.raises(MusiqError, match=r"1 images have no split, 2\.png first"):
        settle_one(dataset, seed=0)


def test_a_sample_keeps_the_proportions_of_the_splits(write: Write) -> None:
    rows = "".join(f"{i}.png,{i},{'train' if i < 60 else 'val' if i < 80 else 'test'}\n" for i in range(100))
    dataset = read_labels(write("image,mos,split\n" + rows))
    small = sample(dataset, 10, seed=0)
    assert small.counts() == "6 train, 2 val, 2 test"
    assert sample(dataset, 10, seed=0) == small
    assert sample(dataset, 1000, seed=0) == dataset


@pytest.mark.parametrize("column", ["reference", "scene", "source"])
def test_no_reference_scene_or_source_straddles_a_drawn_split(column: str) -> None:
    dataset, _ = settle_one(images(600, **{column: lambda i: str(i % 40)}), seed=0)
    of = [{item.extra[column] for item in dataset.split(name)} for name in SPLITS]
    assert [len(group) for group in of] == [32, 4, 4]
    assert len(set().union(*of)) == 40


def test_groups_are_connected_over_shared_columns_and_pairs_alike() -> None:
    dataset = images(6, scene=lambda i: "ab"[i] if i < 2 else "")
    ids = group_ids(dataset.items, np.array([[1, 2], [2, 5]]))
    assert ids[1] == ids[2] == ids[5]
    assert len(set(ids)) == 4
    both = [*images(1, name="one", scene=lambda i: "7").items, *images(1, name="two", scene=lambda i: "7").items]
    assert len(set(group_ids(both))) == 2  # a scene's number means something within its dataset only


def test_near_duplicates_never_straddle_a_drawn_split_however_large_their_groups() -> None:
    rng = np.random.default_rng(0)
    near = np.array(
        [[i, j] for i, j in rng.integers(0, 300, (150, 2)) if i != j] + [[i, i + 1] for i in range(300, 350)]
    )
    for seed in range(5):
        (dataset,), _ = settle_splits([images(400)], seed, near)
        assert all(dataset.items[i].split == dataset.items[j].split for i, j in near)
        largest = max(Counter(group_ids(dataset.items, near)).values())
        assert largest > 20
        for name in ("val", "test"):
            assert len(dataset.split(name)) == pytest.approx(40, abs=largest / 2)


def test_each_split_gets_a_group_where_there_are_few() -> None:
    dataset, _ = settle_one(images(30, scene=lambda i: str(i // 10)), seed=0)
    assert [len(dataset.split(name)) for name in SPLITS] == [10, 10, 10]


def test_a_split_that_is_given_stays_and_what_leaks_through_it_is_marked() -> None:
    dataset = images(6, lambda i: ["train", "train", "test", "test", "val", "val"][i])
    near = np.array([[0, 2], [1, 2], [2, 3], [4, 5], [0, 5]])
    (settled,), lines = settle_splits([dataset], 0, near)
    assert (settled, lines) == (dataset, [])
    assert leaks(dataset, near) == {2: [0, 1], 5: [0]}
    marked = mark_leaks(dataset, near)
    assert [item.extra["near_duplicate_in_train"] for item in marked.items] == ["0", "0", "1", "0", "0", "1"]
    dropped = drop_leaks(dataset, near)
    assert [item.image for item in dropped.items] == ["2.png", "3.png", "4.png", "5.png"]


def test_marks_of_the_label_file_itself_stay() -> None:
    dataset = images(2, lambda i: ["train", "test"][i], near_duplicate_in_train=lambda i: "0")
    assert mark_leaks(dataset, np.array([[0, 1]])) == dataset


def test_validation_drawn_from_train_takes_whole_groups_and_leaves_test_alone() -> None:
    dataset = images(100, lambda i: "test" if i < 20 else "train")
    near = np.array([[0, 20], *([i, i + 1] for i in range(30, 60, 2))])
    (settled,), _ = settle_splits([dataset], 0, near)
    assert [item.image for item in settled.split("test")] == [f"{i}.png" for i in range(20)]
    assert all(settled.items[i].split == settled.items[i + 1].split for i in range(30, 60, 2))
    assert len(settled.split("val")) == 8


def test_a_drawn_dataset_follows_where_anothers_label_file_put_a_copy() -> None:
    drawn, given = images(40, name="drawn"), images(40, lambda i: SPLITS[i % 3], name="given")
    near = np.array([[i, 40 + i] for i in range(12)])
    (first, second), lines = settle_splits([drawn, given], 0, near)
    assert second == given
    assert [item.split for item in first.items[:12]] == [SPLITS[i % 3] for i in range(12)]
    assert len(lines) == 1


def test_a_sample_of_a_dataset_without_split_leaves_it_so() -> None:
    small = sample(images(100), 10, seed=0)
    assert len(small.split("")) == len(small.items) == 10


def test_folds_validate_each_image_of_train_and_val_once_and_leave_test_alone() -> None:
    dataset = images(53, lambda i: ("train", "val", "test")[i % 3], scene=lambda i: str(i // 6 * 2 + (i % 3 == 2)))
    dealt = [deal_folds(dataset, f"{k}/5") for k in range(1, 6)]
    assert all([item.image for item in one.split("test")] == [f"{i}.png" for i in range(2, 53, 3)] for one in dealt)
    validated = sorted(item.image for one in dealt for item in one.split("val"))
    assert validated == sorted(item.image for item in dataset.items if item.split != "test")
    for one in dealt:
        scenes = [{item.extra["scene"] for item in one.split(name)} for name in ("train", "val")]
        assert not scenes[0] & scenes[1]
    assert deal_folds(dataset, "2/5") == dealt[1]


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "1", "a/b", "1/999"])
def test_what_is_no_fold_is_refused(fold: str) -> None:
    with pytest.raises(MusiqError, match="expected K/N"):
        deal_folds(images(20, lambda i: "train" if i % 2 else "val"), fold)
