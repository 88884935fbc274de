"""Images inside Parquet files and tars: every one is found and named, and damage costs nothing but itself."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from musiq.distributed.shards import PATHS_A_PIECE, ROWS_AT_ONCE, Piece, ShardImage, read_piece, split_sources
from musiq.errors import MusiqError

pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install '.[ray]'")
pq = pytest.importorskip("pyarrow.parquet")


def save_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(*sources: str | Path, column: str | None = None) -> list[ShardImage]:
    return [image for piece in split_sources(map(str, sources), column) for image in read_piece(piece)]


def test_files_are_cut_into_pieces_in_their_order_whether_they_exist_or_not() -> None:
    names = [f"{number}.jpg" for number in range(2 * PATHS_A_PIECE + 1)]
    pieces = list(split_sources(names))
    assert [len(piece.names) for piece in pieces] == [PATHS_A_PIECE, PATHS_A_PIECE, 1]
    assert [image for piece in pieces for image in read_piece(piece)] == [ShardImage(name) for name in names]


def test_rows_of_a_parquet_file_are_cut_by_row_groups_and_named_by_their_number(tmp_path: Path) -> None:
    data = [b"image %d" % number for number in range(3 * ROWS_AT_ONCE)]
    pq.write_table(pa.table({"bytes": data, "label": data}), tmp_path / "a.parquet", row_group_size=ROWS_AT_ONCE + 5)
    pieces = list(split_sources([str(tmp_path / "a.parquet")]))
    assert [(piece.group, piece.first) for piece in pieces] == [
        (0, 0),
        (1, ROWS_AT_ONCE + 5),
        (2, 2 * ROWS_AT_ONCE + 10),
    ]
    want = [ShardImage(f"{tmp_path}/a.parquet#{row}", value) for row, value in enumerate(data)]
    assert [image for piece in pieces for image in read_piece(piece)] == want


def test_parquet_columns_of_paths_bytes_with_paths_structs_and_named_ones(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "mos": [1, 2]}), file)
    assert read(file) == [ShardImage("a.jpg"), ShardImage("b.jpg")]
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "bytes": [b"A", None]}), file)
    assert read(file) == [ShardImage("a.jpg", b"A"), ShardImage("b.jpg", error=read(file)[1].error)]
    assert "nothing where the image should be" in read(file)[1].error
    images = [{"bytes": b"A", "path": "a.jpg"}, {"bytes": b"B", "path": None}, {"bytes": None, "path": "c.jpg"}, None]
    pq.write_table(pa.table({"image": images, "label": [0, 1, 2, 3]}), file)
    assert read(file)[:3] == [ShardImage("a.jpg", b"A"), ShardImage(f"{file}#1", b"B"), ShardImage("c.jpg")]
    assert read(file)[3].error
    pq.write_table(pa.table({"photo": [b"A"], "bytes": [b"B"]}), file)
    assert read(file, column="photo") == [ShardImage(f"{file}#0", b"A")]


def test_a_parquet_file_without_the_column_is_refused_before_any_work(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "jpeg": [b"A"]}), tmp_path / "x.parquet")
    with pytest.raises(MusiqError, match="has the columns id, jpeg; expected bytes or image or path"):
        read(tmp_path / "x.parquet")
    with pytest.raises(MusiqError, match="expected photo"):
        read(tmp_path / "x.parquet", column="photo")


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_images_of_a_tar_are_named_by_their_members_and_labels_are_passed_over(tmp_path: Path, ending: str) -> None:
    members = {"n1/0.jpg": b"A", "n1/0.cls": b"7", "n1/0.json": b"{}", "1.seg.PNG": b"B" * 5000}
    tar = save_tar(tmp_path / f"shard{ending}", members)
    assert read(tar) == [ShardImage(f"{tar}/n1/0.jpg", b"A"), ShardImage(f"{tar}/1.seg.PNG", b"B" * 5000)]


@pytest.mark.parametrize("damage", ["cut in an image", "cut between images", "cut in a header", "wrong header"])
def test_a_damaged_tar_gives_the_images_before_the_damage_and_one_error(tmp_path: Path, damage: str) -> None:
    tar = save_tar(tmp_path / "shard.tar", {f"{number}.jpg": b"A" * 1000 for number in range(5)})
    data = tar.read_bytes()
    third = 2 * (512 + 1024)  # a member is a header of 512 bytes and its data in blocks of 512
    ends = {"cut in an image": third + 700, "cut between images": third, "cut in a header": third + 100}
    tar.write_bytes(data[: ends[damage]] if damage in ends else data[:third] + b"\xff" * 512 + data[third + 512 :])
    found = read(tar)
    assert [image.name for image in found] == [f"{tar}/0.jpg", f"{tar}/1.jpg", str(tar)]
    assert [image.data for image in found] == [b"A" * 1000, b"A" * 1000, None]
    assert "Cannot read all of this file" in found[2].error


def test_shards_that_cannot_be_read_are_each_one_error(tmp_path: Path) -> None:
    for name in ("empty.tar", "empty.parquet"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "text.parquet").write_text("This is no Parquet file.")
    save_tar(tmp_path / "labels.tar", {"0.cls": b"7"})
    pq.write_table(pa.table({"bytes": pa.array([], pa.binary())}), tmp_path / "none.parquet")
    found = read(tmp_path, "missing.tar", "missing.parquet", "there.jpg")
    assert len(found) == 8
    assert [image.name for image in found if not image.error] == ["there.jpg"]


def test_a_parquet_file_that_changed_since_it_was_cut_is_an_error_and_no_crash(tmp_path: Path) -> None:
    piece = Piece((str(tmp_path / "gone.parquet"),), "bytes", 0, 0)
    (image,) = read_piece(piece)
    assert "No such file" in image.error


def test_a_folder_gives_its_shards_and_its_images(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    save_tar(tmp_path / "deep" / "b.tar", {"0.jpg": b"A"})
    pq.write_table(pa.table({"bytes": [b"B"]}), tmp_path / "a.parquet")
    (tmp_path / "c.jpg").write_bytes(b"C")
    names = [image.name.removeprefix(f"{tmp_path}/") for image in read(tmp_path)]
    assert names == ["a.parquet#0", "deep/b.tar/0.jpg", "c.jpg"]
    (tmp_path / "none").mkdir()
    with pytest.raises(MusiqError, match="There is no image in"):
        read(tmp_path / "none")
