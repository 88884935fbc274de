"""The images of the calls with a model of any size: each at its own size, together only where they may share a call."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from musiq.model import checkpoint
from musiq_bench.measure import worker
from musiq_bench.measure.call_images import MixedImages, spread
from musiq_bench.plan.images import ImageSet, choose
from musiq_bench.plan.job import Job, Opened
from tests.bench_place import ANY, SPEC
from tests.recipe import lively_model, photo

SIZES = [(64, 96), (40, 40), (64, 96), (100, 30), (64, 96), (40, 40), (30, 100)]
QUICK = {"warmup_calls": 2, "warmup_seconds": 0.0, "end_to_end_calls": 3}


@pytest.fixture
def mixed(tmp_path: Path) -> ImageSet:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, (height, width) in enumerate(SIZES):
        cv2.imwrite(str(folder / f"{number}.png"), photo(height, width, number)[:, :, ::-1])
    return choose([folder], None, 0, tmp_path)


class Means:
    """A runtime for any size that scores an image by its mean, and keeps the shapes of its calls."""

    def __init__(self, call_shares: str = "size") -> None:
        self.spec, self.provider, self.call_shares = ANY, "CPUExecutionProvider", call_shares
        self.calls: list[list[tuple[int, ...]]] = []

    def __call__(self, images: Any) -> Any:
        self.calls.append([image.shape[:2] for image in images])
        return np.array([image.mean() for image in images], np.float32)

    def close(self) -> None:
        pass


def sent(job: Job, runtime: Means, images: ImageSet) -> dict[str, dict[str, Any]]:
    """The messages of a measuring process, run in this one: the last of each event."""
    messages: dict[str, dict[str, Any]] = {}

    def keep(event: str, **content: Any) -> None:
        messages[event] = content

    def decoded() -> Any:
        return images.for_model(Opened(**messages["opened"]), lambda done, of: None)

    worker.measure(job, keep, decoded, lambda job: (runtime, 0.1))  # type: ignore[arg-type, return-value]
    return messages


@pytest.mark.parametrize(("batch", "shares"), [(1, "size"), (2, "size"), (3, "tokens"), (4, "nothing")])
def test_every_image_has_its_score_whatever_it_shares_a_call_with(mixed: ImageSet, batch: int, shares: str) -> None:
    runtime = Means(shares)
    found = sent(Job("x.onnx", "auto", batch, calls=9, seconds=0, **QUICK), runtime, mixed)  # type: ignore[arg-type]
    assert (found["opened"]["height"], found["opened"]["resize"]) == (None, "native")
    expected = [photo(height, width, number).mean() for number, (height, width) in enumerate(SIZES)]
    np.testing.assert_allclose(found["finished"]["scores"], expected, rtol=1e-6)
    assert {len(call) for call in runtime.calls} == {batch}
    if shares == "size":
        assert all(len(set(call)) == 1 for call in runtime.calls)
    tokens = [{ANY.at(*size).tokens for size in call} for call in runtime.calls]
    assert shares == "nothing" or all(len(each) == 1 for each in tokens)
    for place, score in found["finished"]["seen"].items():
        assert score == pytest.approx(expected[int(place)])
    sizes = found["finished"]["sizes"]
    timed = runtime.calls[1 + QUICK["warmup_calls"] :][: len(sizes)]  # type: ignore[index]
    assert len(sizes) == len(found["finished"]["latencies_ms"]) == 9
    assert sizes == [call[0] for call in timed]
    assert {size for call in timed for size in call} == set(SIZES), "there are more calls than one pass has"


def test_a_model_that_brings_a_policy_and_one_that_is_told_another_see_the_sizes_that_it_gives(mixed: ImageSet) -> None:
    runtime = Means()
    job = Job("x.onnx", "auto", 1, calls=7, seconds=0, resize="longer=48", **QUICK)  # type: ignore[arg-type]
    found = sent(job, runtime, mixed)
    assert found["opened"]["resize"] == "longer=48"
    assert {size for call in runtime.calls for size in call} == {(32, 48), (40, 40), (48, 14), (14, 48)}


def test_each_stretch_of_the_calls_has_small_and_large_images_as_all_have() -> None:
    order = spread(list(range(200)))
    assert sorted(order) == list(range(200))
    for stretch in (order[start : start + 20] for start in range(0, 200, 20)):
        tenths = sorted(place // 20 for place in stretch)
        assert max(tenths.count(each) for each in range(10)) <= 3
        assert set(tenths) == set(range(10))


def test_calls_of_many_images_fill_up_with_their_own(mixed: ImageSet) -> None:
    given = mixed.for_model(Opened("p", 1.0, 1, None, None, "t", "native"), lambda done, of: None)
    runtime: Any = SimpleNamespace(spec=ANY, call_shares="size")
    images = MixedImages(given, runtime, "native", 2)
    calls = [images.places(index, 2) for index in range(0, images.one_pass(2), 2)]
    assert sorted(calls) == [[0, 2], [1, 5], [3, 3], [4, 4], [6, 6]]
    assert images.places(images.one_pass(2), 2) == calls[0]
    assert images.places(-2, 2) == calls[-1]


def test_a_checkpoint_for_one_size_is_opened_for_any_and_gives_its_artifacts_scores(tmp_path: Path) -> None:
    model = lively_model("tiny", height=64, width=96, layers=1)
    checkpoint.save(model, tmp_path / "best.safetensors")
    job = Job(str(tmp_path / "best.safetensors"), "cpu", 1, 1, 0, 0, 0, 1, any_size=True)
    runtime, _ = worker.open_model(job)
    assert runtime.spec.any_size
    small = photo(*SPEC.fixed_size, seed=1)[None]
    fixed, _ = worker.open_model(Job(job.path, "cpu", 1, 1, 0, 0, 0, 1))
    np.testing.assert_allclose(runtime(small), fixed(small), atol=1e-5)
    assert np.isfinite(runtime(photo(130, 70, seed=2)[None])).all()


def test_what_compiles_for_each_size_is_refused_for_any(tmp_path: Path) -> None:
    checkpoint.save(lively_model("tiny", height=None, width=None, layers=1), tmp_path / "any.safetensors")
    job = Job(str(tmp_path / "any.safetensors"), "cpu", 1, 1, 0, 0, 0, 1, compiled=True)
    with pytest.raises(
        Exception, match=r"any.safetensors takes images of any size, and torch.compile makes code for one"
    ):
        worker.open_model(job)
