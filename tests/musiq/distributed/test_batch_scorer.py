"""Scoring on a Ray cluster of two workers, from the ordinary `ray` package: same scores, kills, shards, bad input."""

from __future__ import annotations

import csv
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import musiq
from musiq.distributed import BatchScorer
from musiq.errors import MusiqError, pip_install
from musiq.scoring import ScorerOptions
from tests.musiq.distributed.test_shards import save_tar
from tests.score_samples import save_mean_model, saved, scene

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="needs Ray: pip install '.[ray]'")
pd, pa, pq = (pytest.importorskip(name) for name in ("pandas", "pyarrow", "pyarrow.parquet"))
psutil = pytest.importorskip("psutil")

ROOT = Path(__file__).resolve().parents[3]
STORE_BYTES = 100 * 2**20
IMAGES = 150


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Room for two workers, and this process connected to it; the address."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    context = ray.init(address="local", num_cpus=2, object_store_memory=STORE_BYTES, **quiet)
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mean.onnx, and a folder of images with two broken ones among them."""
    top = tmp_path_factory.mktemp("ray")
    save_mean_model(top / "mean.onnx")
    (top / "photos").mkdir()
    for number in range(IMAGES):
        (top / "photos" / f"{number:03}.png").write_bytes(saved(scene(number), "png"))
    (top / "photos" / "070-cut.png").write_bytes(saved(scene(2), "png")[:-500])
    (top / "photos" / "071-text.jpg").write_bytes(b"This is not an image.\n")
    return top


def local_rows(model: Path, sources: list[str], resize: str | None = None) -> list[tuple[str, float | None, str, str]]:
    with musiq.load(model, resize=resize) as scorer:
        return [(row.path, row.score, row.size + row.fitted, row.error) for row in scorer.score_many(sources)]


def photos(top: Path) -> list[str]:
    return sorted(map(str, (top / "photos").iterdir()))


def test_a_batch_of_any_kind_keeps_its_columns_and_gains_those_of_the_scores(top: Path) -> None:
    scorer = BatchScorer(top / "mean.onnx", threads=1)
    data = [saved(scene(3), "png"), b"no image", saved(scene(4, 80, 120), "jpeg")]
    columns = {"bytes": data, "id": [7, 8, 9]}
    arrays = {"bytes": np.array(data, object), "id": np.array([7, 8, 9])}
    as_numpy, as_frame, as_table = scorer(arrays), scorer(pd.DataFrame(columns)), scorer(pa.table(columns))
    assert (type(as_numpy), type(as_frame), type(as_table)) == (dict, pd.DataFrame, pa.Table)
    for batch in (as_numpy, as_frame, as_table.to_pandas()):
        assert list(batch) == [
            "bytes",
            "id",
            "path",
            *sorted(set(batch) - {"bytes", "id", "path"}, key=list(batch).index),
        ]
        assert list(batch["id"]) == [7, 8, 9]
        assert list(batch["path"]) == ["", "", ""]
        assert batch["score"].dtype == np.float32
        assert batch["score"][0] == pytest.approx(scene(3).mean(), abs=1e-3)
        assert np.isnan(batch["score"][1])
        assert "no image of a known kind" in batch["error"][1]
        assert batch["fitted"][2] == "resized 0.8x"
        assert list(batch["size"]) == ["96x64", "", "96x64"]
    assert as_table["score"].to_pylist()[1] is None


def test_paths_bytes_arrays_and_a_named_column_score_alike_and_nothing_is_a_row(top: Path) -> None:
    scorer = BatchScorer(top / "mean.onnx", threads=1)
    path = str(top / "photos" / "005.png")
    want = float(scene(5).mean())
    got = scorer({"path": np.array([path, None, "missing.jpg"], object)})
    assert list(got["path"]) == [path, None, "missing.jpg"]
    assert got["score"][0] == pytest.approx(want, abs=1e-3)
    assert all(got["error"][1:])
    assert scorer({"image": np.stack([scene(5)])})["score"][0] == pytest.approx(want, abs=1e-3)
    named = BatchScorer(top / "mean.onnx", column="photo", threads=1)(pa.table({"photo": [path], "bytes": [b"x"]}))
    assert named["score"].to_pylist() == [pytest.approx(want, abs=1e-3)]
    assert named["path"].to_pylist() == [path]
    with pytest.raises(MusiqError, match="has the columns id; expected bytes or image or path"):
        scorer({"id": np.array([1])})


def test_shares_of_ratings_are_columns_and_an_empty_batch_has_them_too(tmp_path: Path) -> None:
    scorer = BatchScorer(save_mean_model(tmp_path / "five.onnx", outputs=5), threads=1)
    table = scorer(pa.table({"bytes": [saved(scene(1), "png"), b""]}))
    assert [table[f"share_{k}"].to_pylist() for k in range(1, 6)] == [[pytest.approx(0.2), None]] * 5
    assert scorer(table.slice(0, 0)).column_names == table.column_names


def test_pickled_it_opens_the_model_again_with_the_same_options(top: Path) -> None:
    scorer = BatchScorer(top / "mean.onnx", column="photo", threads=1, batch_size=3, max_pixels=99)
    again = pickle.loads(pickle.dumps(scorer))
    assert (again.column, again.scorer.workers, again.scorer.batch_size) == ("photo", 1, 3)
    assert "at most 99 are decoded" in again({"photo": np.array([saved(scene(), "png")], object)})["error"][0]


class WithPlace(BatchScorer):
    """Says for each row which process scored it, and how many threads it had."""

    def __call__(self, batch: Any) -> Any:
        rows = super().__call__(batch)
        count = len(rows["path"])
        return rows | {"pid": np.full(count, os.getpid()), "threads": np.full(count, self.scorer.workers)}


@pytest.mark.slow
def test_an_actor_pool_of_ray_data_gives_the_scores_of_a_local_scorer(cluster: str, top: Path) -> None:
    scored = ray.data.from_items([{"path": path, "id": id} for id, path in enumerate(photos(top))]).map_batches(
        WithPlace,
        fn_constructor_kwargs={"model": str(top / "mean.onnx")},
        batch_size=16,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=2),
    )
    rows = sorted(scored.take_all(), key=lambda row: row["id"])
    want = local_rows(top / "mean.onnx", photos(top))
    got = [(row["path"], row["size"] + row["fitted"], row["error"]) for row in rows]
    assert got == [(path, seen, error) for path, _, seen, error in want]
    assert [None if np.isnan(row["score"]) else row["score"] for row in rows] == [score for _, score, _, _ in want]
    assert {row["threads"] for row in rows} == {1}  # of two CPUs of this machine: what Ray gave the actor
    assert os.getpid() not in {row["pid"] for row in rows}


def workers() -> list[Any]:
    """The processes of the actors that this process's cluster runs."""
    return [child for child in psutil.Process().children(recursive=True) if "MapWorker" in command(child)]


def command(process: Any) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


@pytest.mark.slow
def test_with_its_workers_killed_midway_nothing_is_lost_doubled_or_out_of_order(cluster: str, top: Path) -> None:
    from musiq.distributed.ray_scorer import RayScorer

    (top / "slow.jpg").write_bytes(
        saved(scene(1, 1600, 2400), "jpeg")
    )  # to decode a batch of it takes a second or more
    sources = [*photos(top), *[str(top / "slow.jpg")] * 160]
    rows, killed, after = [], set(), set()
    with RayScorer(top / "mean.onnx") as scorer:
        for row in scorer.score_many(sources):
            rows.append(row)
            if not killed:
                for worker in workers():
                    worker.send_signal(signal.SIGKILL)
                    killed.add(worker.pid)
            if len(rows) % 64 == 0:
                after |= {worker.pid for worker in workers()}
    assert killed
    assert after - killed  # the killed ones had work left, for which others were started
    got = [(row.path, row.score, row.size + row.fitted, row.error) for row in rows]
    assert got == local_rows(top / "mean.onnx", sources)


SHAPES = [(64, 96), (31, 77), (100, 20), (1, 1), (64, 96)]


def test_images_of_many_sizes_in_one_batch_are_scored_at_their_own(tmp_path: Path) -> None:
    scorer = BatchScorer(save_mean_model(tmp_path / "any.onnx", height=None, width=None), threads=1, resize="longer=80")
    images = [scene(seed, *shape) for seed, shape in enumerate(SHAPES)]
    column = np.empty(len(images), object)
    column[:] = images
    batches = [
        {"image": column},
        {"bytes": np.array([saved(image, "png") for image in images], object)},
        pd.DataFrame({"image": images}),
        pa.table({"image": [image.tolist() for image in images]}),  # as lists of lists
    ]
    for batch in batches:
        sizes = scorer(batch)["size"]
        assert list(map(str, sizes)) == ["80x53", "77x31", "16x80", "1x1", "80x53"]
    wrong = scorer(pa.table({"image": [[[[1, 2, 3], [4]]], [[[1, 2, 300]]]]}))
    assert all("give a path, bytes, an array" in error for error in wrong["error"].to_pylist())
    again = pickle.loads(pickle.dumps(scorer))
    assert again.scorer.resize == "longer=80"


@pytest.mark.slow
def test_a_ray_dataset_of_arrays_of_many_sizes_is_scored(cluster: str, tmp_path: Path) -> None:
    model = save_mean_model(tmp_path / "any.onnx", height=None, width=None)
    images = [scene(seed, *SHAPES[seed % 5]) for seed in range(10)]
    dataset = ray.data.from_items([{"id": number, "image": image} for number, image in enumerate(images)])
    for kind in ("numpy", "pyarrow"):
        scored = dataset.map_batches(
            BatchScorer,
            fn_constructor_kwargs={"model": str(model)},
            batch_size=5,
            batch_format=kind,
            compute=ray.data.ActorPoolStrategy(size=1),
        ).drop_columns(["image"])
        rows = sorted(scored.take_all(), key=lambda row: row["id"])
        assert [row["size"] for row in rows] == [f"{image.shape[1]}x{image.shape[0]}" for image in images]
        assert [row["score"] for row in rows] == pytest.approx([image.mean() for image in images], abs=1e-3)


def test_the_engine_scores_a_mixed_folder_as_a_local_scorer_does(cluster: str, tmp_path: Path) -> None:
    from musiq.distributed.ray_scorer import RayScorer

    model = save_mean_model(tmp_path / "any.onnx", height=None, width=None)
    for number, shape in enumerate(SHAPES):
        (tmp_path / f"{number}.png").write_bytes(saved(scene(number, *shape), "png"))
    (tmp_path / "5.png").write_bytes(b"")
    sources = sorted(map(str, tmp_path.glob("*.png")))
    for resize in (None, "shorter=20"):
        with RayScorer(model, ScorerOptions(resize=resize)) as scorer:
            assert scorer.resize == (resize or "native")
            rows = [(row.path, row.score, row.size + row.fitted, row.error) for row in scorer.score_many(sources)]
        assert rows == local_rows(model, sources, resize)
    with pytest.raises(MusiqError, match="--resize cover is for models of one size"):
        RayScorer(model, ScorerOptions(resize="cover"))


@pytest.mark.slow
def test_shards_and_files_in_one_command_are_rows_in_order(cluster: str, top: Path, tmp_path: Path) -> None:
    data = {f"{number}.png": saved(scene(number), "png") for number in range(70)}
    (tmp_path / "in").mkdir()
    save_tar(tmp_path / "in" / "b.tar", {"0.json": b"{}", **data})
    pq.write_table(pa.table({"bytes": list(data.values())}), tmp_path / "in" / "a.parquet", row_group_size=40)
    whole = (tmp_path / "in" / "b.tar").read_bytes()
    (tmp_path / "in" / "c.tar").write_bytes(whole[: len(whole) // 2])
    odd = os.fsdecode(b"caf\xe9.png")  # no UTF-8
    (tmp_path / "in" / odd).write_bytes(data["7.png"])
    command = [
        sys.executable,
        "-m",
        "musiq.cli",
        "in",
        "missing.jpg",
        "--model",
        str(top / "mean.onnx"),
        "--engine",
        "ray",
    ]
    command += ["--address", cluster, "--out", "scores.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    with (tmp_path / "scores.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [f"in/a.parquet#{number}" for number in range(70)] + [f"in/b.tar/{name}" for name in data]
    cut = [row["path"] for row in rows if row["path"].startswith("in/c.tar/")]
    assert 0 < len(cut) < 70
    assert cut == [f"in/c.tar/{name}" for name in data][: len(cut)]
    assert [row["path"] for row in rows] == [*names, *cut, "in/c.tar", f"in/{odd}", "missing.jpg"]
    assert [row["path"] for row in rows if row["error"]] == ["in/c.tar", "missing.jpg"]
    for row in rows[:140]:
        number = int(row["path"].removesuffix(".png").replace("#", "/").rpartition("/")[2])
        assert float(row["score"]) == pytest.approx(scene(number).mean(), abs=1e-3)
    assert {row["model"].partition("@")[0] for row in rows} == {"mean"}
    assert f"{len(rows) - 2} scored, 2 errors" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_a_model_that_no_worker_can_open_is_one_line(cluster: str, top: Path, tmp_path: Path) -> None:
    from musiq.distributed.ray_scorer import RayScorer

    with pytest.raises(MusiqError, match="There is no file"):
        RayScorer(tmp_path / "none.onnx")
    model = save_mean_model(tmp_path / "mean.onnx")
    with RayScorer(model) as scorer:
        model.write_bytes(b"changed since")
        with pytest.raises(MusiqError, match=r"Ray could not go on: .*is not the file that was checked"):
            list(scorer.score_many(photos(top)))
    with pytest.raises(MusiqError, match="no room for a model with 3 CPUs"):
        RayScorer(top / "mean.onnx", ScorerOptions(threads=3))
    assert ray.is_initialized()  # a cluster that somebody else started stays


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "ray", "--resume", "--out", "scores.csv"], "--resume and --workers are for --engine local"),
        (["--engine", "ray", "--workers", "2"], "--resume and --workers are for --engine local"),
        (["--address", "auto"], "are for --engine ray"),
        (["--column", "bytes"], "are for --engine ray"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "Cannot reach the Ray cluster at 127.0.0.1:1"),
    ],
)
def test_what_cannot_be_combined_or_reached_is_one_line_and_no_file(
    top: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    command = [sys.executable, "-m", "musiq.cli", str(top / "photos"), "--model", str(top / "mean.onnx"), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_ray_the_engine_gives_the_install_line_and_the_rest_works(top: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from musiq.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, str(top / "photos" / "000.png"), "--model", str(top / "mean.onnx")]
    assert subprocess.run(command, capture_output=True).returncode == 0
    done = subprocess.run([*command, "--engine", "ray"], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{pip_install('ray')}" in done.stderr
