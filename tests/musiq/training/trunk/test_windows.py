"""Windows of an image in training: what is seen of it, where, and what cannot have windows."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")

from musiq.errors import MusiqError  # noqa: E402, after the check for what it needs
from musiq.model.network import Musiq  # noqa: E402
from musiq.presets import preset  # noqa: E402
from musiq.spec import Scale  # noqa: E402
from musiq.training.trunk.stages import CutTrunk  # noqa: E402
from musiq.training.trunk.windows import pass_in_steps  # noqa: E402
from tests.recipe import photo  # noqa: E402


def model_of() -> Musiq:
    """For 160x224: 5x7 tokens, and 3x4 of the scale that is 128 pixels long."""
    torch.manual_seed(0)
    scales = (Scale(embedding=0), Scale(128, embedding=1))
    spec = dataclasses.replace(preset("lite", 160, 224), scales=scales, trunk="timm:resnet18")
    return Musiq(spec).eval()


def in_training(model: Musiq) -> Musiq:
    """As training has it, with batch norms that stay as they are."""
    model.train()
    for module in model.trunk.modules():
        module.eval()
    return model


def test_a_window_is_the_same_part_of_every_scale_at_its_own_place() -> None:
    model = model_of()
    image = torch.from_numpy(photo(160, 224, 1))[None]
    native, small = model.trunk.padded(model.pyramid(image))  # type: ignore[operator]
    table = model.embed.table()  # type: ignore[operator]
    assert (native.shape[2:], small.shape[2:], len(table)) == ((160, 224), (96, 128), 5 * 7 + 3 * 4)

    found = set()
    pass_in_steps(model, 0.5)
    in_training(model)
    for seed in range(40):
        torch.manual_seed(seed)
        down, across = torch.rand(2).tolist()
        # Half of 5x7 tokens are 2x4, of 3x4 they are 2x2; the places that are left for them are 4x4 and 2x3.
        tops, lefts = [round(down * 3), round(down * 1)], [round(across * 3), round(across * 2)]
        parts = [native[:, :, 32 * tops[0] :, 32 * lefts[0] :][:, :, :64, :128]]
        parts += [small[:, :, 32 * tops[1] :, 32 * lefts[1] :][:, :, :64, :64]]
        rows = [7 * (tops[0] + y) + lefts[0] + x for y in range(2) for x in range(4)]
        rows += [35 + 4 * (tops[1] + y) + lefts[1] + x for y in range(2) for x in range(2)]
        tokens = torch.cat([model.trunk._tokens(part) for part in parts], dim=2).transpose(1, 2) + table[rows]  # type: ignore[operator]
        expected = model.rate_tokens(torch.cat([model.embed.class_token.expand(1, 1, -1), tokens], dim=1))
        torch.manual_seed(seed)
        torch.testing.assert_close(model(image), expected, atol=1e-5, rtol=1e-4)
        found.add((*tops, *lefts))
    assert {place[0] for place in found} == {place[2] for place in found} == {0, 1, 2, 3}


def test_what_is_scored_is_seen_whole() -> None:
    model, image = model_of(), torch.from_numpy(photo(160, 224, 2))[None]
    expected = model(image)
    pass_in_steps(model, 0.5)
    assert torch.equal(model(image), expected)
    assert not torch.equal(in_training(model)(image), expected)


def test_patches_have_no_windows() -> None:
    with pytest.raises(MusiqError, match=r"^--window is for trunks over whole scales.*give --token-drop\.$"):
        CutTrunk.of(Musiq(preset("tiny")))
