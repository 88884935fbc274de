"""The mean score as a metric of the real torchmetrics, over batches and over two processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

import musiq
from tests.recipe import photo

pytest.importorskip("torchmetrics")
Save = Callable[..., Path]


def images(seeds: range) -> torch.Tensor:
    return torch.stack([torch.from_numpy(photo(40, 56, seed)).permute(2, 0, 1) / 255 for seed in seeds])


def test_the_mean_is_over_all_images_whatever_the_batches(saved_model: Save) -> None:
    from musiq.torch_metric.torchmetrics import MUSIQScore

    path = saved_model()
    scores = musiq.create_metric(path, "cpu")(images(range(5)))
    metric = MUSIQScore(path)
    assert float(metric(images(range(3)))) == pytest.approx(float(scores[:3].mean()), abs=1e-5)
    metric.update([images(range(3, 4)), images(range(4, 5))])
    assert float(metric.compute()) == pytest.approx(float(scores.mean()), abs=1e-5)
    metric.reset()
    metric.update(images(range(1)))
    assert float(metric.compute()) == pytest.approx(float(scores[0]), abs=1e-5)


def worker(rank: int, model: str, folder: str) -> None:
    from musiq.torch_metric.torchmetrics import MUSIQScore

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    metric = MUSIQScore(model)
    metric.update(images([range(1), range(1, 4)][rank]))  # one image here, three there
    torch.save((metric.compute(), metric(images(range(rank, rank + 1)))), f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


def test_two_processes_add_up_to_the_mean_over_their_images_together(saved_model: Save, tmp_path: Path) -> None:
    path = saved_model()
    torch.multiprocessing.spawn(worker, (str(path), str(tmp_path)), nprocs=2)
    scores = musiq.create_metric(path, "cpu")(images(range(4)))
    for rank in range(2):
        together, own = torch.load(tmp_path / str(rank))
        assert float(together) == pytest.approx(float(scores.mean()), abs=1e-5)
        assert float(own) == pytest.approx(float(scores[rank]), abs=1e-5), "a step's own value is not synchronised"
