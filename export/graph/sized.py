"""A model for images of another size: its weights stay, its pyramid and its positions are made anew."""

from __future__ import annotations

import copy

from musiq.model.any_size import AnySizeEmbeddings, AnySizePyramid
from musiq.model.network import Embeddings, Musiq, Pyramid
from musiq.spec import Spec


def sized(model: Musiq, spec: Spec) -> Musiq:
    """A model with the weights of another.

    Args:
        model: As it was trained; or simplified, where it is for images of any size.
        spec: Of the model, at another size or at any.

    Returns:
        The model for images of that size, which shares nothing with `model`; `model` itself where it is of this Spec.
    """
    if spec == model.spec:
        return model
    found = copy.deepcopy(model)
    embed = AnySizeEmbeddings(spec) if spec.any_size else Embeddings(spec)
    embed.load_state_dict(model.embed.state_dict())
    found.pyramid = AnySizePyramid(spec) if spec.any_size else Pyramid(spec)
    found.spec, found.embed = spec, embed
    if spec.pads_scales:
        setattr(found.trunk, "any_size", spec.any_size)  # noqa: B010, as trained or simplified
    return found.eval()
