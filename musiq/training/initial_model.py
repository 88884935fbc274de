"""What training is made of: the model to begin with, the optimiser, the schedule, the scores of a set.

train.py is the loop that puts these together; musiq.training.objective has the loss and gradient of a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch

from musiq.datasets.dataset import Dataset
from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.model.network import Musiq
from musiq.spec import PRESETS, Spec, preset
from musiq.training.model_wrappers import average_of, equip
from musiq.training.optimizer import build_optimizer
from musiq.training.pretrained_trunk import Loaded, all_norms, load_trunk
from musiq.training.run import Learner, Run
from musiq.training.run_folder import Settings


def build_model(settings: Settings, dataset: Dataset, resumed: bool = False) -> tuple[Musiq, list[str], str]:
    """The model to begin with, whose Spec tells how to read its score in the labels' own units; which of its batch norms
    keep the statistics that came with their weights; and a line about trunk weights that were missing.

    `resumed` leaves the trunk's weights out: those of the run come over them.
    """
    torch.manual_seed(settings.seed)
    if settings.start is None:
        model = Musiq(training_spec(preset(settings.preset, settings.height, settings.width), settings, dataset))
        trunk = Loaded() if resumed else load_trunk(model, settings.trunk_weights)
        frozen = trunk.whole_norms if settings.batch_norm == "frozen" else []
        return model, frozen, trunk.missing
    start = checkpoint.load(Path(settings.start), settings.height, settings.width)
    model = Musiq(training_spec(start.spec, settings, dataset))
    # All but the head, which spoke of another target.
    body = {name: value for name, value in start.state_dict().items() if not name.startswith("head.")}
    model.load_state_dict(body, strict=False)
    return model, all_norms(model) if settings.batch_norm == "frozen" else [], ""


def training_spec(spec: Spec, settings: Settings, dataset: Dataset) -> Spec:
    """With one output the head learns z-scores of the training labels, with K the shares of the ratings 1..K."""
    labels = np.array([item.mos for item in dataset.split("train")])
    shift, scale = (float(labels.mean()), float(labels.std())) if settings.outputs == 1 else (0.0, 1.0)
    if scale == 0:
        raise MusiqError(f"All {len(labels)} training labels are {labels[0]:g}: there is nothing to learn from them.")
    # The scales that a start had, unless others are asked for: its embeddings are those of the whole pyramid.
    scales = PRESETS[spec.preset].scales if settings.scales == "pyramid" else spec.scales
    if settings.scales == "native":
        scales = tuple(scale for scale in scales if scale.length is None)
    return dataclasses.replace(
        spec,
        scales=scales,
        outputs=settings.outputs,
        score_shift=shift,
        score_scale=scale,
        score_range=dataset.score_range,
        target=dataset.target,
        source="train.py" + (f", from {Path(settings.start).name}" if settings.start else ""),
    )


def set_training(model: Musiq, frozen: Sequence[str]) -> None:
    """Training mode, but `frozen` batch norms keep the statistics that came with the trunk's weights: those of small
    batches are poor, and the scales of a pyramid would mix theirs."""
    model.train()
    for name in frozen:
        model.get_submodule(name).eval()


def prepare_learner(run: Run) -> Learner:
    """As the saved state left it or at its beginning, on the accelerator's device, over all processes."""
    accelerator, settings, parts = run.accelerator, run.settings, run.parts
    model, frozen, missing = build_model(settings, run.dataset, resumed=bool(parts))
    optimizer = build_optimizer(settings, model)
    average = average_of(model, settings.ema)
    if parts:
        model.load_state_dict(parts["model"])
        if average is not None:
            average.load_state_dict(parts["average"])
    else:
        run.state.frozen_norms = frozen
    if missing and accelerator.is_main_process:
        click.echo(missing)
    if average is not None:
        average.to(accelerator.device)
    equip(model, settings, accelerator.device)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    if parts:
        optimizer.load_state_dict(parts["optimizer"])
        if accelerator.scaler is not None and parts["scaler"]:
            accelerator.scaler.load_state_dict(parts["scaler"])
    run.parts = {}  # as large as the model and its optimiser together
    return Learner(model, wrapped, optimizer, average)
