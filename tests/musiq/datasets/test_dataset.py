"""Labelled images: matched to files, counted by dataset, their shares made labels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from musiq.datasets import read_labels
from musiq.datasets.dataset import KONIQ_RATING, as_shares, dataset_numbers, missing
from musiq.errors import MusiqError
from tests.conftest import Write

# Three rows in the words of KonIQ-10k's own table, of images that do not exist.
SETS = """image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set
1.jpg,0.0,0.0,0.25,0.7,0.05,105,77.38,0.5277,training
2.jpg,0.0,0.5,0.5,0.0,0.0,96,38.73,0.5800,validation
3.jpg,0.1,0.2,0.3,0.3,0.1,100,55.10,1.1,test
"""


def test_images_that_are_not_there_are_found_out(write: Write, tmp_path: Path) -> None:
    (tmp_path / "2.png").write_bytes(b"x")
    assert [item.image for item in missing(read_labels(write("image,mos\n1.png,1\n2.png,2\n")).items)] == ["1.png"]


def test_shares_make_the_mean_rating_the_label(write: Write) -> None:
    dataset = as_shares(read_labels(write(SETS)), 5)
    assert (dataset.target, dataset.score_range) == (KONIQ_RATING, (1, 5))
    assert dataset.items[0].mos == pytest.approx(0.25 * 3 + 0.7 * 4 + 0.05 * 5)


@pytest.mark.parametrize(("text", "says"), [("image,mos\n1.png,2\n", "have none"), (SETS, "have c1..c5")])
def test_shares_that_are_not_there_are_asked_for(write: Write, text: str, says: str) -> None:
    with pytest.raises(MusiqError, match=r"columns c1\.\.c10") as caught:
        as_shares(read_labels(write(text)), 10)
    assert says in str(caught.value)


def test_images_are_matched_to_labels_by_path_and_else_by_a_name_that_is_unique(write: Write, tmp_path: Path) -> None:
    dataset = read_labels(write("image,mos\na/1.png,1\nb/1.png,2\nb/2.png,3\n"))
    asked = [tmp_path / "x/../b/1.png", Path("elsewhere/2.png"), Path("elsewhere/1.png"), Path("3.png")]
    assert [item and item.mos for item in dataset.match(asked)] == [2, 3, None, None]


def test_a_column_dataset_numbers_the_datasets_and_without_it_all_are_one(write: Write) -> None:
    path = write("image,mos,dataset\n1.png,1,spaq\n2.png,2,ava\n3.png,3,spaq\n")
    assert dataset_numbers(read_labels(path).items) == [0, 1, 0]
    assert dataset_numbers(read_labels(write("image,mos\n1.png,1\n2.png,2\n")).items) == [0, 0]


def test_reading_labels_needs_no_torch() -> None:
    modules = "musiq.datasets.label_files, musiq.metrics, musiq.training.losses, musiq.datasets.synthetic"
    code = f"import sys; sys.modules['torch'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
