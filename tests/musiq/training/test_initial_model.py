"""Parts of a run that need no run: the trunk's weights, batch norms, the schedule, the order of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from musiq.model.network import Musiq  # noqa: E402, after the check for what it needs
from musiq.spec import preset  # noqa: E402
from musiq.training import initial_model, optimizer  # noqa: E402
from musiq.training.dataloader import cut, epoch_order  # noqa: E402
from musiq.training.pretrained_trunk import all_norms, load_trunk  # noqa: E402


def test_the_trunk_takes_torchvisions_weights_and_names_what_is_wrong_with_others(tmp_path: Path) -> None:
    import torchvision

    from musiq.errors import MusiqError

    torch.manual_seed(0)
    weights = torchvision.models.resnet50(weights=None).state_dict()
    model = Musiq(preset("resnet50", 64, 64))
    # As older files: without the counters.
    old = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet50.pth")
    load_trunk(model, str(tmp_path / "resnet50.pth"))
    found = model.trunk.get_submodule("net").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in found.items())

    torch.save({name: value for name, value in old.items() if name != "layer3.0.conv2.weight"}, tmp_path / "less.pth")
    with pytest.raises(MusiqError, match=r"lacks 1 of the .* layer3\.0\.conv2\.weight"):
        load_trunk(model, str(tmp_path / "less.pth"))
    torch.save({**old, "conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "grey.pth")
    with pytest.raises(MusiqError, match=r"conv1\.weight has the shape \(64, 1, 7, 7\)"):
        load_trunk(model, str(tmp_path / "grey.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(MusiqError, match="--trunk-weights none"):
        load_trunk(model, str(tmp_path / "text.pth"))


def test_frozen_batch_norms_keep_their_statistics_and_trained_ones_do_not() -> None:
    model = Musiq(preset("resnet50", 64, 64))
    images = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    norm = model.trunk.get_submodule("net.bn1")
    for frozen, changes in ((all_norms(model), False), ([], True)):
        initial_model.set_training(model, frozen)
        before = norm.running_mean.clone()
        model(images)
        assert (not torch.equal(before, norm.running_mean)) is changes


def test_the_rate_rises_over_the_warm_up_then_falls_once_to_zero() -> None:
    rates = [optimizer.learning_rate(step, 100, 2.0, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) * 0.2)
    expected = 1 + np.cos(np.pi * np.arange(90) / 90)
    assert rates[10:] == pytest.approx(expected)


def test_an_epoch_shows_each_image_once_over_all_processes() -> None:
    order = epoch_order(103, seed=0, epoch=0)
    assert sorted(order) == list(range(103))
    assert order != epoch_order(103, seed=0, epoch=1)
    shares = [cut(order, 8, rank, 2) for rank in (0, 1)]
    assert {len(batch) for share in shares for batch in share} == {4}
    shown = [index for share in shares for batch in share for index in batch]
    assert sorted(shown) == sorted(order[:96])
