"""Nothing is left of an export that ends early."""

from __future__ import annotations

from pathlib import Path

import pytest

from musiq_export.staging import publish, staging


def test_a_signal_right_after_the_temporary_folder_was_made_finds_it_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def make_and_stop(folder: Path, **options: bool) -> None:
        mkdir(folder, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", make_and_stop)
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "model.onnx"):
        pytest.fail("the folder was never handed out")
    assert list(tmp_path.iterdir()) == []


def test_folders_and_files_take_the_place_of_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("old")
    (tmp_path / "file").write_text("old")
    with staging(tmp_path / "goal") as stage:
        (stage / "folder" / "inner").mkdir(parents=True)
        (stage / "folder" / "inner" / "new").write_text("new")
        (stage / "file").write_text("new")
        publish([stage / "folder", stage / "file"], tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {
        "file",
        "folder",
        "folder/inner",
        "folder/inner/new",
    }
    assert (tmp_path / "file").read_text() == "new"
