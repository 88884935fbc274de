"""The gradient of one batch: over all processes, in one piece or several, always that of the batch as a whole.

Losses over pairs compare every image of a batch with every other, in whichever process or piece it is. For each piece
the outputs of all others are taken as constants: the sum of the pieces' gradients is then the gradient of the whole loss.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from musiq.training.losses import Terms, over_pairs, parse, total
from musiq.training.model_wrappers import still_statistics
from musiq.training.run_folder import Settings


@dataclass(frozen=True)
class Wanted:
    """What the head should say of n images: scores (n,), for K > 1 outputs the shares of the ratings 1..K (n, K), and
    the group (n,) that an image may be compared in where there are several."""

    scores: Tensor
    shares: Tensor | None = None
    groups: Tensor | None = None

    def of(self, indices: Tensor) -> Wanted:
        shares = None if self.shares is None else self.shares[indices]
        return Wanted(self.scores[indices], shares, None if self.groups is None else self.groups[indices])


Piece = tuple[Tensor, Tensor]
"""Images uint8 (n, H, W, 3) and their places among the training images (n,); one black image where n would be 0."""


@dataclass(frozen=True)
class Objective:
    """The loss of the settings against what is wanted of the training images; `share` is how many images of a batch
    one process gets at most."""

    accelerator: Any
    settings: Settings
    wanted: Wanted
    share: int

    def backward(self, model: nn.Module, images: Tensor, indices: Tensor, step: int) -> float:
        """Add this process's part of the batch's gradient, and return the loss of the whole batch, 0 for no images."""
        pieces = self._pieces(images, indices)
        if over_pairs(self._terms):
            return self._backward_together(model, pieces, step)
        return self._backward_apart(model, pieces, step)

    @cached_property
    def _terms(self) -> Terms:
        return parse(self.settings.loss, self.settings.outputs)

    def loss(self, outputs: Tensor, wanted: Wanted) -> Tensor:
        """Of the head's outputs (B, K); 0 where there are no images."""
        terms, margin = self._terms, self.settings.margin
        if not len(outputs):
            return outputs.sum() * 0
        if wanted.shares is None:
            return total(terms, (outputs[:, 0], wanted.scores), None, margin, wanted.groups)
        predicted = outputs.softmax(dim=1)
        ratings = torch.arange(1, outputs.shape[1] + 1, dtype=predicted.dtype, device=predicted.device)
        scores = predicted @ ratings, wanted.scores
        return total(terms, scores, (predicted, wanted.shares), margin, wanted.groups)

    def _pieces(self, images: Tensor, indices: Tensor) -> list[Piece]:
        """As many in every process, because all processes must take each step together."""
        size = -(-self.share // self.settings.accumulate)
        pieces = []
        for start in range(0, self.share, size):
            some, places = images[start : start + size], indices[start : start + size]
            if not len(places):
                shape = (1, self.settings.height, self.settings.width, 3)
                some = torch.zeros(shape, dtype=torch.uint8, device=self.accelerator.device)
            pieces.append((some, places))
        return pieces

    def _backward_apart(self, model: nn.Module, pieces: list[Piece], step: int) -> float:
        """For losses that are means over images: each piece counts by how many it has of the whole batch."""
        mine = torch.tensor(sum(len(places) for _, places in pieces), device=self.accelerator.device)
        count = max(1, int(self.accelerator.reduce(mine, "sum")))
        said = torch.zeros((), device=self.accelerator.device)
        for number, (_, places) in enumerate(pieces):
            with self._syncing(model, number == len(pieces) - 1):
                loss = self.loss(self._outputs(model, pieces, number, step), self.wanted.of(places))
                loss = loss * (len(places) / count)
                said += loss.detach()
                self._backward(loss)
        return float(self.accelerator.reduce(said, "sum"))

    def _backward_together(self, model: nn.Module, pieces: list[Piece], step: int) -> float:
        """For losses over pairs. Several pieces pass twice: first for their outputs, then for their gradients."""
        mine = torch.cat([places for _, places in pieces])
        everywhere: Tensor | None = None
        if len(pieces) > 1:
            with torch.no_grad(), still_statistics(model):
                outputs = [self._outputs(model, pieces, number, step) for number in range(len(pieces))]
            everywhere = self._gather(torch.cat(outputs), 0.0)
        places = self._gather(mine, -1)
        start, said = self.accelerator.process_index * self.share, 0.0
        for number, piece in enumerate(pieces):
            with self._syncing(model, number == len(pieces) - 1):
                ours = self._outputs(model, pieces, number, step)
                others = self._gather(ours.detach(), 0.0) if everywhere is None else everywhere
                all_outputs = torch.cat([others[:start], ours, others[start + len(ours) :]])
                loss = self.loss(all_outputs[places >= 0], self.wanted.of(places[places >= 0]))
                said = float(loss.detach())
                self._backward(loss)
            start += len(piece[1])
        return said

    def _outputs(self, model: nn.Module, pieces: list[Piece], number: int, step: int) -> Tensor:
        """The head's outputs (n, K) of one piece, in fp32; what is random in them is decided by the step and the piece."""
        images, places = pieces[number]
        if self.settings.drop_path:
            which = [self.settings.seed, step, self.accelerator.process_index, number]
            torch.manual_seed(int(np.random.SeedSequence(which).generate_state(1)[0]))
        outputs: Tensor = model(images).float()
        return outputs[: len(places)]

    def _gather(self, mine: Tensor, filling: float) -> Tensor:
        """The rows of all processes, `share` of each, those that a process lacks filled up."""
        missing = self.share - len(mine)
        filled = torch.cat([mine, mine.new_full((missing, *mine.shape[1:]), filling)]) if missing else mine
        gathered: Tensor = self.accelerator.gather(filled)
        return gathered

    def _backward(self, loss: Tensor) -> None:
        # Processes average their gradients, and each has but its own part of one sum.
        self.accelerator.backward(loss * self.accelerator.num_processes)

    def _syncing(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        quiet: AbstractContextManager[Any] = nullcontext() if last else self.accelerator.no_sync(model)
        return quiet
