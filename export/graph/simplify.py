"""Exact simplifications of a trained model: the same scores from less work, proven against the original in float64.

1. BatchNorm goes into the convolution before it; standardised convolution weights become constants.
2. Position and scale embeddings become one constant table.
3. The scale of the attention goes into the query projection.
4. Where it saves work, attention is folded: the key projection into the query's, the output projection into the value's.
   For one head, with tokens x as columns and the softmax over the keys j:
     (Wq x_i + bq) . (Wk x_j + bk) = (Wk' Wq x_i + Wk' bq) . x_j + a term without j, which a softmax cannot see,
     Wo (sum_j p_j (Wv x_j + bv)) = Wo Wv (sum_j p_j x_j) + Wo bv, because the p_j sum to 1.
   So keys and values are the tokens themselves, and two projections of every token are left. That pays where the head size
   is the model's width (`resnet50-classic`), and in every model's last layer, where one token asks.

5. In the patch trunk the scales of group norms go into the weights after them (`simplify_patch_trunk`).

The last layer's other rows (only the class token is read) are left out already in `musiq.model.network`.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musiq.model.network import Attention, Embeddings, Musiq, PatchTrunk, StandardisedConv
from musiq.spec import USUAL_SIZE

from .fold_batch_norms import fold_batch_norms
from .simplify_patch_trunk import FoldedPatchTrunk
from .sized import sized


class ConstantEmbeddings(nn.Module):
    """`Embeddings` for one fixed image size: one table (N-1, D) and the class token."""

    table: Tensor
    class_token: Tensor

    def __init__(self, embeddings: Embeddings) -> None:
        super().__init__()
        self.register_buffer("table", embeddings.table().detach())
        self.register_buffer("class_token", embeddings.class_token.detach())

    def forward(self, x: Tensor, scales: list[Tensor]) -> Tensor:
        return torch.cat([self.class_token.expand(x.shape[0], 1, -1), x + self.table], dim=1)


class FoldedAttention(nn.Module):
    """`Attention` whose keys and values are the tokens themselves; the heads are rows of one query matrix."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        heads = attention.heads
        inner, dim = attention.query.weight.shape
        size = inner // heads
        wq, wk, wv = (
            getattr(attention, name).weight.detach().view(heads, size, dim) for name in ("query", "key", "value")
        )
        bq, bv = (getattr(attention, name).bias.detach().view(heads, size) for name in ("query", "value"))
        wo = attention.out.weight.detach().view(dim, heads, size)
        self.heads = heads
        self.query = nn.Linear(dim, heads * dim)
        self.out = nn.Linear(heads * dim, dim)
        scale = attention.scale
        self.query.weight.data = torch.einsum("hsk,hsq->hkq", wk, wq).reshape(heads * dim, dim) * scale
        self.query.bias.data = torch.einsum("hsk,hs->hk", wk, bq).flatten() * scale
        self.out.weight.data = torch.einsum("ohs,hsi->ohi", wo, wv).reshape(dim, heads * dim)
        self.out.bias.data = attention.out.bias.detach() + torch.einsum("ohs,hs->o", wo, bv)

    def forward(self, x: Tensor, asking: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.query(asking).unflatten(2, (self.heads, -1)).flatten(1, 2).unsqueeze(1)  # (B, 1, n*heads, D)
        tokens = x.unsqueeze(1)  # (B, 1, N, D)
        gathered = F.scaled_dot_product_attention(q, tokens, tokens, attn_mask=mask, scale=1.0).squeeze(
            1
        )  # (B, n*heads, D)
        return self.out(gathered.unflatten(1, (-1, self.heads)).flatten(2))  # (B, n, D)


@torch.no_grad()
def simplify(model: Musiq) -> Musiq:
    """Fold what does not depend on the image.

    Args:
        model: As it was trained, of any preset, in any precision.

    Returns:
        A copy in the same precision, for images of its Spec's size; the arithmetic of folding is done in float64. Its
        scores differ by rounding alone.
    """
    dtype = next(model.parameters()).dtype
    model = copy.deepcopy(model).double().eval()
    if not isinstance(model.trunk, PatchTrunk):
        model.trunk = fold_batch_norms(model.trunk)
    _fix_standardised(model.trunk)
    if isinstance(model.trunk, PatchTrunk):
        model.trunk = FoldedPatchTrunk(model.trunk)
    if isinstance(model.embed, Embeddings):
        setattr(model, "embed", ConstantEmbeddings(model.embed))  # noqa: B010, of another class but with the same call
    for layer in model.layers:
        attention = cast(Attention, layer.attention)
        if layer is model.layers[-1] or model.spec.head_dim == model.spec.dim:
            layer.attention = FoldedAttention(attention)
        else:
            _fold_scale(attention)
    return model.to(dtype)


def _fold_scale(attention: Attention) -> None:
    attention.query.weight.mul_(attention.scale)
    attention.query.bias.mul_(attention.scale)
    attention.scale = 1.0


def _fix_standardised(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, StandardisedConv):
            how: dict[str, Any] = {"stride": child.stride, "padding": child.padding, "bias": False}
            plain = nn.Conv2d(child.in_channels, child.out_channels, cast(Any, child.kernel_size), **how)
            plain.weight.data = child.standardised()
            setattr(module, name, plain)
        else:
            _fix_standardised(child)


def gflop(model: Musiq) -> float:
    """Billions of floating-point operations for one image, of USUAL_SIZE where it may have any: products and sums counted
    apart, of matrix products, convolutions and attention only, by torch's own counter. Nothing is computed: tensors have
    shapes alone."""
    from torch.func import functional_call
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    if model.spec.any_size:
        model = sized(model, model.spec.at(*USUAL_SIZE))
    shapes = {name: tensor.to("meta") for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    image = torch.zeros(1, *model.spec.fixed_size, 3, dtype=torch.uint8, device="meta")
    # As plain products: before torch 2.15 the counter knows nothing of the fused attention of CPUs.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        functional_call(model, shapes, (image,))
    return counter.get_total_flops() / 1e9
