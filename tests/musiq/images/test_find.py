"""Images are found in folders, in order, whatever the folders hold."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from musiq.errors import MusiqError
from musiq.images import decode
from musiq.images.find import evenly, find_images
from tests.score_samples import saved, scene


def test_folders_are_searched_in_order_without_hidden_files_and_loops(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/notes.txt", ".hidden/d.jpg", ".e.jpg", "x.jpg/inner.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    found = [str(path.relative_to(tmp_path)) for path in find_images([tmp_path])]
    assert found == ["a.PNG", "b.jpg", "broken.jpg", "sub/c.webp", "x.jpg/inner.gif"]


def test_files_are_taken_as_given_and_missing_ones_are_left_to_the_reader(tmp_path: Path) -> None:
    odd = tmp_path / "image.without-suffix"
    odd.write_bytes(b"")
    assert find_images([odd, tmp_path / "missing.jpg"]) == [odd, tmp_path / "missing.jpg"]


def test_one_path_alone_is_a_list_of_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    assert find_images(str(tmp_path)) == find_images(tmp_path) == find_images([tmp_path]) == [tmp_path / "a.jpg"]


def test_images_by_other_names_are_found_in_folders_and_any_name_is_read_if_given(tmp_path: Path) -> None:
    image = scene(1, 40, 60)
    kinds = {
        "a.jfif": "jpeg",
        "b.JFI": "jpeg",
        "c.mpo": "mpo",
        "d.apng": "png",
        "e.jxl": "",
        "f.dat": "png",
        "g.jpg": "png",
    }
    for name, kind in kinds.items():
        (tmp_path / name).write_bytes(saved(image, kind) if kind else b"")
    assert [path.name for path in find_images([tmp_path])] == ["a.jfif", "b.JFI", "c.mpo", "d.apng", "e.jxl", "g.jpg"]
    for name in kinds.keys() - {"e.jxl"}:
        assert decode(*find_images([tmp_path / name])).shape == image.shape


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MusiqError, match=r"no image in .*expected files named .*\.jpg"):
        find_images([tmp_path])


def test_a_very_deep_folder_is_searched(tmp_path: Path) -> None:
    before = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1100):  # deeper than Python recurses
            os.mkdir("d")
            os.chdir("d")
        Path("deep.jpg").write_bytes(b"")
    finally:
        os.chdir(before)
    try:
        assert [path.name for path in find_images([tmp_path])] == ["deep.jpg"]
    finally:  # deeper than pytest's own cleaning reaches
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_a_few_are_spread_evenly_over_all_and_none_asked_for_is_all() -> None:
    assert evenly(range(10), 3) == [0, 3, 6]
    assert evenly(range(4), 4) == evenly(range(4), 9) == evenly(range(4), 0) == [0, 1, 2, 3]
