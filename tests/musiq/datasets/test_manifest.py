"""Label files of every layout."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from musiq.datasets.dataset import KONIQ_MOS, KONIQ_RATING, as_shares, dataset_numbers, missing
from musiq.datasets.manifest import read_labels, read_manifest, write_manifest
from musiq.errors import MusiqError
from tests.conftest import Write

# Three rows in the words of KonIQ-10k's own files, of images that do not exist.
SETS = """image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set
1.jpg,0.0,0.0,0.25,0.7,0.05,105,77.38,0.5277,training
2.jpg,0.0,0.5,0.5,0.0,0.0,96,38.73,0.5800,validation
3.jpg,0.1,0.2,0.3,0.3,0.1,100,55.10,1.1,test
"""
SCORES = """"image_name","c1","c2","c3","c4","c5","c_total","MOS","SD","MOS_zscore"
"1.jpg",0,0,25,73,7,105,3.83,0.53,77.38
"2.jpg",0,50,46,0,0,96,2.48,0.58,38.73
"""


def test_a_manifest_gives_paths_beside_it_and_keeps_further_columns(write: Write) -> None:
    path = write("image,mos,split,std,device\na/1.png,3.5,train,0.4,phone\n2.png,1,test,,\n")
    first, second = read_manifest(path).items
    assert first.path == path.parent / "a/1.png"
    assert (first.mos, first.split, first.std, first.extra) == (3.5, "train", 0.4, {"device": "phone"})
    assert (second.split, second.std, second.shares) == ("test", None, None)


@pytest.mark.parametrize(
    "text", ["image;mos\n1.png;2\n", "\ufeffimage\tMOS\r\n1.png\t2\r\n", "filename,mos\n1.png, 2 \n"]
)
def test_other_separators_byte_order_marks_and_line_ends_are_read(write: Write, text: str) -> None:
    (item,) = read_labels(write(text)).items
    assert (item.image, item.mos) == ("1.png", 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,mos\n1.png,2\n2.png,good\n", "row 3: mos is 'good'; expected a number"),
        ("image,mos\n1.png,nan\n", "row 2: mos is 'nan'"),
        ("image,mos\n1.png\n", "row 2: mos is None"),
        ("image,mos\n,3\n", "row 2: no image is named"),
        ("image,mos\n1.png,3\n1.png,4\n", "row 3: 1.png is there twice"),
        ("image,mos,split\n1.png,3,dev\n", "row 2: the split is 'dev'; expected train, val or test"),
        ("image,mos,c1,c2\n1.png,3,0,0\n", "row 2: the shares [0.0, 0.0] are none"),
        ("image,mos,c1,c3\n1.png,3,1,0\n", "share columns c1, c3; expected c1, c2"),
        ("image,score\n1.png,3\n", "has the columns image, score; needed are image,mos"),
        ("image,mos\n", "no row below its header"),
        ("", "(none)"),
    ],
)
def test_a_bad_label_file_is_refused_with_its_row(write: Write, text: str, says: str) -> None:
    with pytest.raises(MusiqError) as caught:
        read_labels(write(text))
    assert says in str(caught.value)


def test_a_label_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MusiqError, match="Cannot read the labels"):
        read_labels(tmp_path / "none.csv")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00")
    with pytest.raises(MusiqError, match="no UTF-8 text"):
        read_labels(tmp_path / "photo.jpg")


def test_koniqs_other_table_counts_ratings_and_has_the_0_to_100_score_under_another_name(write: Write) -> None:
    dataset = read_labels(write(SCORES))
    assert (dataset.target, dataset.items[0].mos) == (KONIQ_MOS, 77.38)
    assert sum(dataset.items[0].shares or ()) == pytest.approx(1)
    assert (dataset.items[0].shares or ())[3] == pytest.approx(73 / 105)


def test_a_bad_row_of_the_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("0\t1.jpg\t3.8\n1\t2.jpg\n")
    with pytest.raises(MusiqError, match="row 2"):
        read_labels(tmp_path / "list.txt")


def test_images_that_are_not_there_are_found_out(write: Write, tmp_path: Path) -> None:
    (tmp_path / "2.png").write_bytes(b"x")
    assert [item.image for item in missing(read_labels(write("image,mos\n1.png,1\n2.png,2\n")).items)] == ["1.png"]


def test_a_written_manifest_reads_back_equal_to_the_last_bit(write: Write, tmp_path: Path) -> None:
    dataset = read_labels(write("image,mos,split,std,c1,c2,by\n1.png,0.1,train,0.3,1,2,me\n2.png,7,test,,3,4,\n"))
    write_manifest(dataset, tmp_path / "deep/split.csv")
    again = read_manifest(tmp_path / "deep/split.csv", dataset.root)
    for found, item in zip(again.items, dataset.items, strict=True):
        assert found.shares == pytest.approx(item.shares)
        assert dataclasses.replace(found, shares=None) == dataclasses.replace(item, shares=None)


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


def test_reading_labels_needs_no_torch() -> None:
    modules = "musiq.datasets.manifest, musiq.metrics, musiq.training.losses, musiq.datasets.synthetic"
    code = f"import sys; sys.modules['torch'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_column_dataset_numbers_the_datasets_and_without_it_all_are_one(write: Write) -> None:
    path = write("image,mos,dataset\n1.png,1,spaq\n2.png,2,ava\n3.png,3,spaq\n")
    assert dataset_numbers(read_labels(path).items) == [0, 1, 0]
    assert dataset_numbers(read_labels(write("image,mos\n1.png,1\n2.png,2\n")).items) == [0, 0]
