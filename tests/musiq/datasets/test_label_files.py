"""Label files of every layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from musiq.datasets.dataset import KONIQ_MOS, Dataset, Labelled
from musiq.datasets.label_files import read_labels, read_manifest, with_split, write_manifest
from musiq.errors import MusiqError
from tests.conftest import Write

# Two rows in the words of KonIQ-10k's own file, of images that do not exist.
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
        ("image,mos\n1.png,\n", "row 2: mos is ''; expected a number"),
        ("image,mos\n,3\n", "row 2: no image is named"),
        ("image,mos\n1.png,3\n1.png,4\n", "row 3: 1.png is there twice;"),
        ("image,mos\n0.png,3\n./0.png,4\n", "row 3: ./0.png is there twice, also as 0.png;"),
        ("image,mos\n0.png,3\na/../0.png,4\n", "row 3: a/../0.png is there twice, also as 0.png;"),
        ("image,mos\n1.png,1_000\n", "row 2: mos is '1_000'; expected a number."),
        ("image,mos\n1.png,\uff11\uff12\n", "row 2: mos is '\uff11\uff12'; expected a number."),
        ("image,mos,std\n1.png,3,0\n2.png,3,-0.5\n", "row 3: std is -0.5; expected a standard deviation from 0 on"),
        ("0.png,1.0\n1.png,2.0\n", "no header: its first row is 0.png,1.0. Put a row image,mos"),
        ("image,mos\n" + "x" * 131073, "row 2: a cell has more than 131,072 characters, so this is no table"),
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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "image,mos\na.png,3\nb.png,3,51\n",
            "row 3: cells: 3, columns: 2 (image, mos). Write numbers with decimal points",
        ),
        ("image,mos,\na.png,3,51\n", "row 2: cells: 3, columns: 2"),
        ("sep=,\n\nimage,mos\n,\na.png,3,51\n", "row 5: cells: 3, columns: 2"),
        (
            "image,mos,by\na.png,3,x,y\n",
            "row 2: cells: 4, columns: 3 (image, mos, by). Put a cell that holds the separator",
        ),
        ("image,mos,std\na.png,0.4\n", "row 2: cells: 2, columns: 3 (image, mos, std). Write every cell"),
        ("image,mos,by\na.png,3.5,me\nb.png,4.", "row 3: cells: 2, columns: 3"),  # cut short
        ('image,mos\na.png,"3,51"\n', "row 2: mos is '3,51'; expected a number with a decimal point"),
        ("image\tmos\na.png\t1,234\n", "row 2: mos is '1,234'; expected a number with a decimal point"),
        ("image;mos\na.png;3,51\nb.png;1.234\n", "row 2: mos is '3,51'; expected a number with a decimal point"),
        ("image;mos\na.png;1.234,5\n", "row 2: mos is '1.234,5'; expected a number."),
        ('image,mos,by\na.png,3,"me\nb.png,4,you\n', "row 3: unexpected end of data. A quoted cell"),
        ("image,mos,MOS\na.png,3,4\n", "has the column mos twice"),
    ],
)
def test_a_row_that_could_be_read_in_two_ways_is_refused_with_its_line(write: Write, text: str, says: str) -> None:
    with pytest.raises(MusiqError) as caught:
        read_labels(write(text))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "image,mos,by\n,,\na.png,3.51,me\n\n , ,\nb.png,4,you\n,,\n",
        "sep=;\nimage;mos;by\na.png;3.51;me\nb.png;4;you\n",
        "\ufeffsep=;\r\nimage;mos;by\r\na.png;3,51;me\r\nb.png;4;you\r\n;;\r\n",  # Excel's of a German Windows
        "\n\nimg_name,mos,by\na.png,3.51,me\nb.png,4,you",
        "image,mos,by,,\na.png,3.51,me,,\nb.png,4,you,,,\n",  # columns that once were
        'by,image,"mos"\rme,a.png,"3.51"\ryou,b.png,4\r',
        "image;mos;by\na.png; 3,51 ;me\nb.png;4;you\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_as_spreadsheets_write_them_are_read(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding) if encoding == "utf-8" else text.removeprefix("\ufeff").encode(encoding))
    found = [(item.image, item.mos, item.extra) for item in read_labels(path).items]
    assert found == [("a.png", 3.51, {"by": "me"}), ("b.png", 4.0, {"by": "you"})]


def test_empty_lines_of_the_list_are_read_over(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n0\t1.jpg\t3.8\n\n1\t2.jpg\t2.5\n\n")
    assert [item.mos for item in read_labels(tmp_path / "list.txt").items] == [3.8, 2.5]


@pytest.mark.parametrize("name", ["a\rb.png", "a\nb.png", 'a"b.png', "a,b.png", "a;b.png"])
def test_every_name_of_an_image_comes_back_from_a_written_manifest(write: Write, tmp_path: Path, name: str) -> None:
    dataset = Dataset((Labelled(name, tmp_path / name, 1.5, "train"),), tmp_path, "stars")
    write_manifest(dataset, tmp_path / "split.csv")
    assert read_manifest(tmp_path / "split.csv").items == dataset.items


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


def test_a_written_manifest_reads_back_equal_to_the_last_bit(write: Write, tmp_path: Path) -> None:
    dataset = read_labels(write("image,mos,split,std,c1,c2,by\n1.png,0.1,train,0.3,1,2,me\n2.png,7,test,,3,4,\n"))
    write_manifest(dataset, tmp_path / "deep/split.csv")
    again = read_manifest(tmp_path / "deep/split.csv", dataset.root)
    for found, item in zip(again.items, dataset.items, strict=True):
        assert found.shares == pytest.approx(item.shares)
        assert dataclasses.replace(found, shares=None) == dataclasses.replace(item, shares=None)


def test_a_split_file_overrides_and_names_images_with_or_without_their_suffix(write: Write, tmp_path: Path) -> None:
    dataset = read_manifest(write("image,mos,split\n1.bmp,3,test\na/2.JPG,4,test\n3.png,5,test\n"))
    split = tmp_path / "split.csv"
    split.write_text("image,split\n1,train\na/2.JPG,Validation\n3,test\n4,train\n")
    found = with_split(dataset, split)
    assert [item.split for item in found.items] == ["train", "val", "test"]
    assert [dataclasses.replace(item, split="test") for item in found.items] == list(dataset.items)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "image,split\n1,train\n",
            "split.csv puts 2 of 3 images into no split, 2.bmp first; give each a row image,split",
        ),
        ("image,split\n1,train\n1,test\n", "split.csv, row 3: 1 is there twice"),
        ("image,split\n1,dev\n", "split.csv, row 2: the split is 'dev'; expected train, val or test"),
        ("image,split\n1,\n", "split.csv, row 2: 1 has no split; expected train, val or test"),
        ("image,mos\n1,3\n", "split.csv has the columns image, mos; needed are image,split"),
    ],
)
def test_a_split_file_that_leaves_anything_open_is_refused(write: Write, tmp_path: Path, text: str, says: str) -> None:
    dataset = read_manifest(write("image,mos\n1.bmp,3\n2.bmp,4\n3.bmp,5\n"))
    split = tmp_path / "split.csv"
    split.write_text(text)
    with pytest.raises(MusiqError) as caught:
        with_split(dataset, split)
    assert says in str(caught.value)


def test_a_path_may_be_a_str(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,mos\na.jpg,3\n")
    assert read_labels(str(path)) == read_labels(path)
    assert read_manifest(str(path), str(tmp_path)) == read_manifest(path, tmp_path)
