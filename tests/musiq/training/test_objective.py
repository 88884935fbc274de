"""The loss and gradient of a batch: in pieces as in one, and of no readable image."""

from __future__ import annotations

import copy
import dataclasses

import pytest

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")

from musiq.training.model_wrappers import add_stochastic_depth  # noqa: E402, after the check for what it needs
from musiq.training.objective import Objective, Targets  # noqa: E402
from tests.musiq.training.small_model import RECIPE, SMALL, assert_same, gradients, small_model  # noqa: E402


@pytest.mark.parametrize(
    ("loss", "outputs"), [("l1", 1), ("l1+0.5*ranking", 1), ("fidelity+plcc", 1), ("emd+emd1", 5), ("emd+ranking", 5)]
)
@pytest.mark.parametrize("pieces", [3, 7, 9])
def test_a_batch_in_pieces_has_the_loss_and_gradient_of_the_whole(loss: str, outputs: int, pieces: int) -> None:
    recipe = dataclasses.replace(RECIPE, loss=loss, outputs=outputs)
    spec = dataclasses.replace(SMALL, outputs=outputs)
    groups = torch.tensor([0, 0, 1, 1, 0, 1, 0])
    whole_loss, whole = gradients(small_model(spec), recipe, groups)
    found_loss, found = gradients(small_model(spec), dataclasses.replace(recipe, accumulate=pieces), groups)
    assert found_loss == pytest.approx(whole_loss, rel=1e-5)
    assert_same(found, whole)


def test_pieces_leave_out_the_same_branches_when_they_pass_twice() -> None:
    recipe = dataclasses.replace(RECIPE, loss="fidelity", accumulate=3, drop_path=0.5)
    model = small_model()
    add_stochastic_depth(model, 0.5)
    loss, _ = gradients(model, recipe)
    again, _ = gradients(copy.deepcopy(model), recipe)
    assert again == loss
    outputs = []
    keep = model.register_forward_hook(lambda *call: outputs.append(call[2].detach()))
    gradients(model, recipe)
    keep.remove()
    assert len(outputs) == 6
    for first, second in zip(outputs[:3], outputs[3:], strict=True):
        assert torch.equal(first, second)


def test_a_batch_without_a_readable_image_has_no_gradient() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    for loss in ("l1", "ranking"):
        model = small_model()
        objective = Objective(accelerator, dataclasses.replace(RECIPE, loss=loss), Targets(torch.zeros(7)), share=7)
        none = torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
        assert objective.backward(model, *none, step=0) == 0
        assert all(value.grad is None or not value.grad.any() for value in model.parameters())
