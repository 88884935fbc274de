"""Computes the loss and gradient of a batch, whether it passes in one piece or several, in one process or many.

Losses over pairs compare every image of a batch with every other, in whichever process or piece it is. For each piece
the outputs of all others are taken as constants: the sum of the pieces' gradients is then the gradient of the whole loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from musiq.datasets.dataset import Labelled, dataset_numbers
from musiq.spec import Spec
from musiq.training.losses import Terms, over_pairs, parse, total
from musiq.training.model_wrappers import frozen_statistics
from musiq.training.recipe import Recipe


@dataclass(frozen=True)
class Targets:
    """What the head should predict of n images.

    Attributes:
        scores: float (n,): z-scores for one output, mean ratings for several.
        shares: float (n, K): the shares of the ratings 1..K; None for one output.
        groups: int64 (n,): only images of one group are compared with each other; None where all are.
    """

    scores: Tensor
    shares: Tensor | None = None
    groups: Tensor | None = None

    def of(self, indices: Tensor) -> Targets:
        """Those of some of the images."""
        shares = None if self.shares is None else self.shares[indices]
        return Targets(self.scores[indices], shares, None if self.groups is None else self.groups[indices])


def targets_of(items: Sequence[Labelled], spec: Spec, device: torch.device) -> Targets:
    """The targets of labelled images; where they are from several datasets, each is a group."""
    labels = (np.array([item.mos for item in items]) - spec.score_shift) / spec.score_scale
    scores = torch.tensor(labels, dtype=torch.float32, device=device)
    numbers = dataset_numbers(items)
    groups = torch.tensor(numbers, device=device) if max(numbers) else None
    if spec.outputs == 1:
        return Targets(scores, None, groups)
    return Targets(scores, torch.tensor([item.shares for item in items], dtype=torch.float32, device=device), groups)


@dataclass(frozen=True)
class Piece:
    """A part of a process's images of one batch.

    Attributes:
        images: uint8 (n, H, W, 3); one black image where n would be 0.
        indices: int64 (n,): which of the training images they are.
        number: Of the piece, counted from 0.
    """

    images: Tensor
    indices: Tensor
    number: int


@dataclass(frozen=True)
class Objective:
    """The loss of a recipe over the training images.

    Attributes:
        accelerator: accelerate's, of this process.
        recipe: `loss`, `margin`, `outputs`, `accumulate`, `drop_path`, `token_drop`, `window` and `seed`.
        targets: Of all training images.
        share: How many images of a batch one process gets at most.
    """

    accelerator: Any
    recipe: Recipe
    targets: Targets
    share: int

    def backward(self, model: nn.Module, images: Tensor, indices: Tensor, step: int) -> float:
        """Add this process's part of a batch's gradient to the model's parameters.

        Args:
            model: As accelerate wraps it, in training mode.
            images: uint8 (n, H, W, 3), this process's images of the batch; n is at most `share`.
            indices: int64 (n,), which of the training images they are.
            step: Of the whole run; decides with the seed what is random.

        Returns:
            The loss of the whole batch; 0 for no images.
        """
        pieces = self._pieces(images, indices)
        if over_pairs(self._terms):
            return self._backward_pairs(model, pieces, step)
        return self._backward_means(model, pieces, step)

    @cached_property
    def _terms(self) -> Terms:
        return parse(self.recipe.loss, self.recipe.outputs)

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Of the head's outputs (B, K); 0 where there are no images."""
        terms, margin = self._terms, self.recipe.margin
        if not len(outputs):
            return outputs.sum() * 0
        if targets.shares is None:
            return total(terms, (outputs[:, 0], targets.scores), None, margin, targets.groups)
        predicted = outputs.softmax(dim=1)
        ratings = torch.arange(1, outputs.shape[1] + 1, dtype=predicted.dtype, device=predicted.device)
        scores = predicted @ ratings, targets.scores
        return total(terms, scores, (predicted, targets.shares), margin, targets.groups)

    def _pieces(self, images: Tensor, indices: Tensor) -> list[Piece]:
        """As many in every process, because all processes must take each step together."""
        size = -(-self.share // self.recipe.accumulate)
        pieces = []
        for number, start in enumerate(range(0, self.share, size)):
            some, their_indices = images[start : start + size], indices[start : start + size]
            if not len(their_indices):
                shape = (1, self.recipe.height, self.recipe.width, 3)
                some = torch.zeros(shape, dtype=torch.uint8, device=self.accelerator.device)
            pieces.append(Piece(some, their_indices, number))
        return pieces

    def _backward_means(self, model: nn.Module, pieces: list[Piece], step: int) -> float:
        """For losses that are means over images: each piece counts by how many it has of the whole batch."""
        own_count = torch.tensor(sum(len(piece.indices) for piece in pieces), device=self.accelerator.device)
        count = max(1, int(self.accelerator.reduce(own_count, "sum")))
        own_loss = torch.zeros((), device=self.accelerator.device)
        for piece in pieces:
            with self._syncing(model, last=piece is pieces[-1]):
                loss = self.loss(self._outputs(model, piece, step), self.targets.of(piece.indices))
                loss = loss * (len(piece.indices) / count)
                own_loss += loss.detach()
                self._backward(loss)
        return float(self.accelerator.reduce(own_loss, "sum"))

    def _backward_pairs(self, model: nn.Module, pieces: list[Piece], step: int) -> float:
        """For losses over pairs, which need the outputs of the whole batch, (processes x share, K), for each piece.

        Rows of it without an image are left out. Several pieces pass twice: first for all outputs, then for gradients.
        """
        indices = self._gather(torch.cat([piece.indices for piece in pieces]), filling=-1)
        filled = indices >= 0
        targets = self.targets.of(indices[filled])
        constants = self._all_outputs(model, pieces, step) if len(pieces) > 1 else None
        row, loss = self.accelerator.process_index * self.share, torch.zeros(())
        for piece in pieces:
            with self._syncing(model, last=piece is pieces[-1]):
                own = self._outputs(model, piece, step)
                others = self._gather(own.detach(), filling=0.0) if constants is None else constants
                outputs = torch.cat([others[:row], own, others[row + len(own) :]])  # only `own` has a gradient
                loss = self.loss(outputs[filled], targets)
                self._backward(loss)
            row += len(own)
        return float(loss.detach())

    def _all_outputs(self, model: nn.Module, pieces: list[Piece], step: int) -> Tensor:
        """The outputs of the whole batch, without gradients."""
        with torch.no_grad(), frozen_statistics(model):
            own = [self._outputs(model, piece, step) for piece in pieces]
        return self._gather(torch.cat(own), filling=0.0)

    def _outputs(self, model: nn.Module, piece: Piece, step: int) -> Tensor:
        """The head's outputs (n, K) of one piece, in fp32; what is random in them is decided by the step and the piece."""
        if self.recipe.drop_path or self.recipe.token_drop or self.recipe.window < 1:
            entropy = [self.recipe.seed, step, self.accelerator.process_index, piece.number]
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        outputs: Tensor = model(piece.images).float()
        return outputs[: len(piece.indices)]

    def _gather(self, own: Tensor, filling: float) -> Tensor:
        """The rows of all processes, `share` of each; those that a process lacks are filled up."""
        lacking = self.share - len(own)
        rows = torch.cat([own, own.new_full((lacking, *own.shape[1:]), filling)]) if lacking else own
        gathered: Tensor = self.accelerator.gather(rows)
        return gathered

    def _backward(self, loss: Tensor) -> None:
        # Processes average their gradients, and each has but its own part of one sum.
        self.accelerator.backward(loss * self.accelerator.num_processes)

    def _syncing(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Processes exchange gradients after the last piece alone."""
        local: AbstractContextManager[Any] = nullcontext() if last else self.accelerator.no_sync(model)
        return local
