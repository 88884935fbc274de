"""Videos among images: rows of videos and of frames, from Python and from the command, whatever is broken."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from musiq import ImageError, Scorer
from musiq.cli import main
from musiq.output.formats import FORMATS
from musiq.output.resumable import RowFile
from musiq.runtimes.base import Images, Scores
from musiq.scoring import Row
from musiq.video import open_video
from tests.musiq.video.clips import cut, grey, noise, save_clip, save_sound
from tests.score_samples import FakeRuntime, mean_spec, save_mean_model, saved, scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose score is the mean of the pixels, and in `clips` videos, images, and files that are broken."""
    top = tmp_path_factory.mktemp("videos")
    save_mean_model(top / "mean.onnx", height=None, width=None)
    clips = top / "clips"
    clips.mkdir()
    save_clip(clips / "a.mp4", 20)
    (clips / "b.png").write_bytes(saved(scene(2), "png"))
    cut(save_clip(clips / "c.mkv", images=noise(30)))
    images = [Image.fromarray(grey(number)) for number in range(4)]
    images[0].save(clips / "d.gif", save_all=True, append_images=images[1:], duration=100)
    (clips / "e.mp4").write_bytes(b"")
    save_sound(clips / "f.mp4")
    return top


@pytest.fixture(scope="module")
def means(folder: Path) -> list[float]:
    """Of the frames of a.mp4."""
    with open_video(folder / "clips" / "a.mp4", max_pixels=10**8) as video:
        return [float(frame.pixels().mean()) for frame in video.frames(range(20))]


def score(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--model", str(folder / "mean.onnx")])


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_video_is_one_row_with_the_mean_of_its_frames(folder: Path, means: list[float]) -> None:
    clip = folder / "clips" / "a.mp4"
    with Scorer(folder / "mean.onnx") as scorer:
        row = scorer.score_video(clip, "all")
        assert row.score == pytest.approx(np.mean(means), abs=1e-4)
        assert (row.min, row.median, row.max) == pytest.approx((min(means), median(means), max(means)), abs=1e-4)
        assert (row.frames, row.fitted, row.size, row.frame) == (20, "all 20 frames", "64x48", None)
        some = means[1::5] + means[3::5]  # the moments 1.25, 3.75, 6.25, 8.75, ... of 20
        assert (
            scorer.score(clip) == scorer.score_video(clip.read_bytes()).score == pytest.approx(np.mean(some), abs=1e-4)
        )
        with pytest.raises(ImageError, match="only audio"):
            scorer.score(folder / "clips" / "f.mp4")


def test_rows_keep_the_order_of_images_and_videos_and_calls_take_frames_together(folder: Path) -> None:
    class Means(FakeRuntime):
        def run(self, images: Images) -> dict[str, Scores]:
            self.batches.append(len(images))
            return {"score": np.array([image.mean() for image in images], np.float32)}

    runtime = Means(mean_spec(height=None, width=None))
    paths = [folder / "clips" / name for name in ("b.png", "a.mp4", "e.mp4", "b.png", "a.mp4")]
    with Scorer(runtime, batch_size=4, frames="all") as scorer:
        rows = list(scorer.score_many(paths))
    assert [row.path for row in rows] == list(map(str, paths))
    assert [row.frames for row in rows] == [None, 20, None, None, 20]
    assert rows[0].score == rows[3].score
    assert rows[1].score == rows[4].score
    assert max(runtime.batches) > 4


def test_frames_that_fail_cost_the_video_nothing_but_themselves(folder: Path, means: list[float]) -> None:
    class FailsOnDark(FakeRuntime):
        def run(self, images: Images) -> dict[str, Scores]:
            if min(image.mean() for image in images) < means[2] - 1:
                raise RuntimeError("too dark")
            return {"score": np.array([image.mean() for image in images], np.float32)}

    with Scorer(FailsOnDark(mean_spec(height=None, width=None)), frames="all") as scorer:
        row = scorer.score_video(folder / "clips" / "a.mp4")
    assert row.frames == 18
    assert row.score == pytest.approx(np.mean(means[2:]), abs=1e-4)
    assert row.fitted == ("all 20 frames; 2 of them failed: The model failed on this image: RuntimeError: too dark")


def test_shares_of_a_video_are_the_means_of_its_frames(folder: Path) -> None:
    class Shares(FakeRuntime):
        def run(self, images: Images) -> dict[str, Scores]:
            part = np.array([image.mean() / 255 for image in images], np.float32)
            return {"score": part, "shares": np.stack([part, 1 - part], axis=1)}

    with Scorer(Shares(mean_spec(2, None, None)), frames="all") as scorer:
        row = scorer.score_video(folder / "clips" / "a.mp4")
    assert row.shares is not None
    assert row.shares == pytest.approx((row.score, 1 - (row.score or 0)))


def test_frames_too_large_for_the_model_are_not_decoded_one_by_one(folder: Path) -> None:
    with Scorer(folder / "mean.onnx", max_tokens=4) as scorer:
        (row,) = scorer.score_many(folder / "clips" / "a.mp4")
    assert row.score is None
    assert row.error.startswith("The model would see 64x48 pixels, which are ")


def test_the_command_scores_a_folder_of_everything(folder: Path, tmp_path: Path) -> None:
    done = score(folder, str(folder / "clips"), "--frames", "4", "--out", str(tmp_path / "rows.csv"))
    assert done.exit_code == 3, done.output
    rows = {Path(row["path"]).name: row for row in table(tmp_path / "rows.csv")}
    assert list(rows) == ["a.mp4", "b.png", "c.mkv", "d.gif", "e.mp4", "f.mp4"]
    columns = ["path", "score", "size", "fitted", "error", "model", "frames", "min", "median", "max"]
    assert list(rows["a.mp4"]) == columns
    assert [row["frames"] for row in rows.values()] == ["4", "", "4", "4", "", ""]
    assert rows["a.mp4"]["fitted"] == "4 of 20 frames evenly spread"
    assert rows["c.mkv"]["fitted"].split("; ")[1].startswith("broken after ")
    assert rows["b.png"]["fitted"] == ""
    assert [rows[name]["error"].split(".")[0] for name in ("e.mp4", "f.mp4")] == [
        "The file is empty",
        "There is no video in the file, only audio",
    ]
    assert "4 scored (15 images and frames), 2 errors" in done.output


def test_a_folder_yields_its_videos_only_with_frames(folder: Path, tmp_path: Path) -> None:
    clips = folder / "clips"
    done = score(folder, str(clips), "--out", str(tmp_path / "rows.csv"))
    assert done.exit_code == 0, done.output
    assert [Path(row["path"]).name for row in table(tmp_path / "rows.csv")] == ["b.png", "d.gif"]
    assert "frames" not in table(tmp_path / "rows.csv")[0]
    done = score(folder, str(clips / "a.mp4"), str(clips / "d.gif"), "--out", str(tmp_path / "named.csv"))
    assert [row["frames"] for row in table(tmp_path / "named.csv")] == ["8", ""], (
        "a video that is named, a GIF that is an image"
    )
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.mp4").write_bytes(b"")
    done = score(folder, str(tmp_path / "only"))
    assert (done.exit_code, "but videos: add --frames 8" in done.output) == (1, True)


def test_every_format_has_the_frames(folder: Path, tmp_path: Path, means: list[float]) -> None:
    for kind in ("csv", "jsonl", "parquet", "tsv", "txt"):
        arguments = ("--frames", "every=0.2s", "--per-frame", "--out", str(tmp_path / f"rows.{kind}"))
        assert score(folder, str(folder / "clips" / "a.mp4"), *arguments).exit_code == 0
    expected = {"frame": [0, 5, 10, 15], "time_s": [0, 0.2, 0.4, 0.6]}
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    parquet = pq.read_table(tmp_path / "rows.parquet")
    for name, values in expected.items():
        assert [float(row[name]) for row in table(tmp_path / "rows.csv")] == pytest.approx(values)
        assert [line[name] for line in lines] == parquet[name].to_pylist() == pytest.approx(values)
    assert parquet["score"].to_pylist() == pytest.approx([means[number] for number in expected["frame"]], abs=1e-3)
    assert (tmp_path / "rows.txt").read_text().count("a.mp4\t") == 4
    arguments = ("--frames", "all", "--out", str(tmp_path / "videos.parquet"))
    assert score(folder, str(folder / "clips" / "a.mp4"), *arguments).exit_code == 0
    assert pq.read_table(tmp_path / "videos.parquet")["frames"].to_pylist() == [20]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_run_killed_within_a_video_scores_that_video_again(folder: Path, tmp_path: Path, kind: str) -> None:
    clips, whole, torn = folder / "clips", tmp_path / f"whole.{kind}", tmp_path / f"torn.{kind}"
    names = [str(clips / name) for name in ("b.png", "a.mp4", "a.mp4", "f.mp4", "c.mkv", "b.png")]
    arguments = ("--frames", "5", "--per-frame", "--out")
    assert score(folder, *names, *arguments, str(whole)).exit_code == 3
    lines = whole.read_bytes().splitlines(keepends=True)
    for rows in (0, 1, 2, 5, 7, 12, 14, len(lines) - 1):
        Path(f"{torn}.part").write_bytes(b"".join(lines[:rows]) + lines[rows][:4])
        done = score(folder, *names, *arguments, str(torn), "--resume")
        assert done.exit_code == 3, done.output
        assert torn.read_bytes() == whole.read_bytes(), f"killed after {rows} lines"
        torn.unlink()


def test_rows_of_other_frames_are_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    out, clip = tmp_path / "rows.csv", str(folder / "clips" / "a.mp4")
    settings = {"--frames": "5", "--per-frame": "off"}
    columns = ("frames", "min", "median", "max")
    label = table_of_one(folder, tmp_path)
    with RowFile(out, FORMATS["csv"](1, columns), [label], settings=settings) as file:
        file.write(Row(clip, 1.0, model=label))
    done = score(folder, clip, "--frames", "8", "--out", str(out), "--resume")
    assert done.exit_code == 1
    assert "rows scored with --frames 5, not 8" in done.output


def table_of_one(folder: Path, tmp_path: Path) -> str:
    """What rows call the model."""
    score(folder, str(folder / "clips" / "b.png"), "--out", str(tmp_path / "one.csv"))
    return table(tmp_path / "one.csv")[0]["model"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--frames", "none"), "There is no choice of frames 'none'; expected all, a number"),
        (("--frames", "4", "--engine", "ray"), "--frames and --per-frame are for --engine local"),
    ],
)
def test_options_that_make_no_sense_are_one_line(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    done = score(folder, str(folder / "clips"), *arguments)
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {said}")
    assert done.output.count("\n") == 1
