"""Readers of the public datasets, each on a miniature of the layout in which its authors publish it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from musiq.datasets.dataset import KONIQ_MOS, KONIQ_RATING, Dataset, Labelled
from musiq.datasets.public import read_named
from musiq.errors import MusiqError

Put = Callable[[str, str], Path]

KONIQ = """image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set
1.jpg,0.0,0.0,0.25,0.7,0.05,105,77.38,0.5277,training
2.jpg,0.0,0.5,0.5,0.0,0.0,96,38.73,0.5800,validation
3.jpg,0.1,0.2,0.3,0.3,0.1,100,55.10,1.1,test
"""
SPAQ = [
    ["Image name", "MOS", "Brightness", "Colorfulness"],
    ["00001.jpg", 37.5, 40.25, 50],
    ["00002.jpg", 62, 61, 60.5],
]
AVA = "1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n2 953958 10 7 15 26 26 21 10 8 1 2 15 21 1396\n"


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def by_image(dataset: Dataset) -> dict[str, Labelled]:
    assert all(item.path == dataset.root / item.image for item in dataset.items)
    return {item.image: item for item in dataset.items}


def test_koniq_has_its_official_split_its_shares_and_its_target(tmp_path: Path, put: Put) -> None:
    put("koniq10k_distributions_sets.csv", KONIQ)
    put("koniq-10k.txt", "0\t1.jpg\t3.8\n")  # the table with the official split goes first
    put("1024x768/1.jpg", "")
    dataset = read_named("koniq10k", tmp_path)
    assert [item.split for item in dataset.items] == ["train", "val", "test"]
    assert (dataset.target, dataset.score_range) == (KONIQ_MOS, (0, 100))
    first = by_image(dataset)["1.jpg"]
    assert (first.mos, first.path) == (77.38, tmp_path / "1024x768/1.jpg")
    assert first.shares == pytest.approx((0, 0, 0.25, 0.7, 0.05))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            "Image name,MOS\n00001.jpg,37,5\n",
            "row 2: cells: 3, columns: 2 (Image name, MOS). Write numbers with decimal",
        ),
        ("Image name,MOS,Brightness\n00001.jpg,37\n", "row 2: cells: 2, columns: 3"),
    ],
)
def test_a_table_whose_rows_do_not_fit_its_header_is_refused(tmp_path: Path, put: Put, table: str, says: str) -> None:
    put("MOS and Image attribute scores.csv", table)
    with pytest.raises(MusiqError) as caught:
        read_named("spaq", tmp_path)
    assert says in str(caught.value)


def test_a_table_saved_with_semicolons_and_decimal_commas_is_read(tmp_path: Path, put: Put) -> None:
    put("MOS and Image attribute scores.csv", "Image name;MOS;Brightness\n00001.jpg;37,5;40,25\n;;\n00002.jpg;62;61\n")
    assert [item.mos for item in read_named("spaq", tmp_path).items] == [37.5, 62]


def test_koniqs_list_of_mean_ratings_is_taken_where_the_table_is_not_there(tmp_path: Path, put: Put) -> None:
    put("koniq-10k.txt", "0\t1.jpg\t3.8\n")
    with pytest.raises(MusiqError, match="no folder 1024x768/"):
        read_named("koniq10k", tmp_path)
    put("1024x768/1.jpg", "")
    assert read_named("koniq10k", tmp_path).target == KONIQ_RATING


@pytest.mark.parametrize("folder", ["Annotations/", ""])
def test_spaq_is_read_from_its_workbook(tmp_path: Path, put: Put, folder: str) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    put("TestImage/00001.jpg", "")
    path = put(f"{folder}MOS and Image attribute scores.xlsx", "")
    book = openpyxl.Workbook()
    for row in SPAQ:
        book.active.append(row)
    book.save(path)
    dataset = read_named("spaq", tmp_path)
    items = by_image(dataset)
    assert {name: item.mos for name, item in items.items()} == {"00001.jpg": 37.5, "00002.jpg": 62}
    assert items["00001.jpg"].path == tmp_path / "TestImage/00001.jpg"
    assert items["00002.jpg"].extra == {"Brightness": "61", "Colorfulness": "60.5"}
    assert (dataset.score_range, {item.split for item in dataset.items}) == ((0, 100), {""})


def test_spaqs_workbook_saved_as_csv_needs_no_openpyxl(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    path = put("Annotations/MOS and Image attribute scores.xlsx", "no workbook")
    with pytest.raises(MusiqError, match=r"needs openpyxl: pip install .*\[train\]'"):
        read_named("spaq", tmp_path)
    path.unlink()
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows(SPAQ)
    assert [item.mos for item in read_named("spaq", tmp_path).items] == [37.5, 62]


def test_a_workbook_that_is_none_is_refused(tmp_path: Path, put: Put) -> None:
    pytest.importorskip("openpyxl")
    put("MOS and Image attribute scores.xlsx", "<html>")
    with pytest.raises(MusiqError, match=r"cannot be read as \.xlsx"):
        read_named("spaq", tmp_path)


@pytest.mark.parametrize("folder", ["images", "image"])
def test_ava_has_the_mean_of_ten_ratings_and_its_authors_test_list(tmp_path: Path, put: Put, folder: str) -> None:
    put("AVA.txt", AVA)
    put("aesthetics_image_lists/generic_test.jpgl", "953958\n")
    put(f"{folder}/953619.jpg", "")
    items = by_image(read_named("ava", tmp_path))
    ratings = np.repeat(np.arange(1, 11), [0, 1, 5, 17, 38, 36, 15, 6, 5, 1])
    first = items["953619.jpg"]
    assert (first.mos, first.std) == (pytest.approx(ratings.mean()), pytest.approx(ratings.std()))
    assert first.shares == pytest.approx(np.bincount(ratings, minlength=11)[1:] / len(ratings))
    assert (first.path.parent.name, first.extra) == (folder, {"tags": "1 22", "challenge": "1396"})
    assert {name: item.split for name, item in items.items()} == {"953619.jpg": "train", "953958.jpg": "test"}


@pytest.mark.parametrize("line", ["1 953619 0 1 5", "1 953619 0 0 0 0 0 0 0 0 0 0 1 22 1396", "a b"])
def test_a_bad_row_of_ava_is_named(tmp_path: Path, put: Put, line: str) -> None:
    put("AVA.txt", AVA + line + "\n")
    put("aesthetics_image_lists/generic_test.jpgl", "953958\n")
    with pytest.raises(MusiqError, match=r"AVA\.txt, row 3: .* is not index, id, ten counts"):
        read_named("ava", tmp_path)


@pytest.mark.parametrize("folder", ["", "database/"])
def test_paq2piq_has_whole_images_in_several_folders(tmp_path: Path, put: Put, folder: str) -> None:
    put(
        f"{folder}labels_image.csv", "name,mos\nblur_dataset/motion0044.jpg,75.4\nvoc_emotic_ava/AVA__129332.jpg,58.6\n"
    )
    items = by_image(read_named("paq2piq", tmp_path))
    assert items["voc_emotic_ava/AVA__129332.jpg"].path == tmp_path / folder / "voc_emotic_ava/AVA__129332.jpg"
    assert [item.mos for item in items.values()] == [75.4, 58.6]


@pytest.mark.parametrize("above", ["", "ChallengeDB_release/"])
def test_clive_leaves_out_the_images_on_which_raters_practised(tmp_path: Path, put: Put, above: str) -> None:
    io = pytest.importorskip("scipy.io")
    data = put(f"{above}Data/x", "").parent
    put(f"{above}Images/3.bmp", "")
    names = np.empty((4, 1), object)
    names[:, 0] = [np.array([name]) for name in ("t1.bmp", "t2.bmp", "3.bmp", "11.JPG")]
    io.savemat(data / "AllImages_release.mat", {"AllImages_release": names})
    io.savemat(data / "AllMOS_release.mat", {"AllMOS_release": np.array([[10, 20, 63.9, 25.3]])})
    io.savemat(data / "AllStdDev_release.mat", {"AllStdDev_release": np.array([[1, 2, 18.3, 20.0]])})
    dataset = read_named("clive", tmp_path)
    assert (dataset.target, dataset.score_range) == ("LIVE In the Wild MOS (0-100)", (0, 100))
    assert [(item.image, item.mos, item.std) for item in dataset.items] == [("3.bmp", 63.9, 18.3), ("11.JPG", 25.3, 20)]
    assert by_image(dataset)["3.bmp"].path == tmp_path / above / "Images/3.bmp"
    io.savemat(data / "AllMOS_release.mat", {"AllMOS_release": np.array([[10.0, 20]])})
    with pytest.raises(MusiqError, match="4 names, 2 scores and 4 deviations"):
        read_named("clive", tmp_path)
    (data / "AllMOS_release.mat").write_text("<html>")
    with pytest.raises(MusiqError, match="cannot be read as a MATLAB file"):
        read_named("clive", tmp_path)


def test_kadid_names_the_reference_by_which_it_is_split(tmp_path: Path, put: Put) -> None:
    put("dmos.csv", "dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4.57,0.496\nI02_03_05.png,I02.png,1.1,0.2\n")
    put("images/I01.png", "")
    items = by_image(read_named("kadid10k", tmp_path))
    assert items["I02_03_05.png"].extra == {"reference": "I02.png", "var": "0.2"}
    assert [item.mos for item in items.values()] == [4.57, 1.1]


def test_biq2021_has_its_official_split_and_names_the_scale_of_its_second_tables(tmp_path: Path, put: Put) -> None:
    put("Train.csv", "Image Name,MOS\nss03 (3753).jpg,0.83292\n")
    put("Test.csv", "Image Name,MOS\nss03 (7805).jpg,-0.00468\n")
    second = read_named("biq2021", tmp_path)
    put("Train (Images and MOS).csv", "Image Name,MOS\nss03 (3753).jpg,0.8401\n")
    put("Test (Images and MOS).csv", "Image Name,MOS\nss03 (7805).jpg,0.7321\n")
    first = read_named("biq2021", tmp_path)
    assert [(item.mos, item.split) for item in first.items] == [(0.8401, "train"), (0.7321, "test")]
    assert [(item.mos, item.split) for item in second.items] == [(0.83292, "train"), (-0.00468, "test")]
    assert (first.target, first.score_range) == ("BIQ2021 MOS (0-1)", (0, 1))
    assert (second.target, second.score_range) == ("BIQ2021 MOS of Train.csv and Test.csv", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,mos\na.jpg,good\n", "row 2: mos is 'good'; expected a number"),
        ("name,mos\na.jpg,1\n,2\n", "row 3: the column name is empty"),
        ("image,mos\na.jpg,1\n", "row 2: the column name is empty or missing; there are image, mos"),
        ("name,mos\na.jpg,1\na.jpg,2\n", "a.jpg is there twice"),
        ("name,mos\n", "no image in its table"),
    ],
)
def test_a_bad_table_is_refused_with_its_row(tmp_path: Path, put: Put, text: str, says: str) -> None:
    put("labels_image.csv", text)
    with pytest.raises(MusiqError) as caught:
        read_named("paq2piq", tmp_path)
    assert says in str(caught.value)
