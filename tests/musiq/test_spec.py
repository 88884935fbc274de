"""The record of facts: its sizes, its JSON, what it refuses, and JSON that was written before."""

from __future__ import annotations

import dataclasses
import json

import pytest

from musiq.errors import MusiqError
from musiq.presets import PRESETS, preset
from musiq.spec import Scale, Spec


@pytest.mark.parametrize(
    ("preset", "sizes"),
    [
        ("resnet50-classic", [(768, 1024), (288, 384), (160, 224)]),
        ("musiq", [(168, 224), (288, 384), (768, 1024)]),
    ],
)
def test_scales_of_a_1024x768_image_have_the_published_sizes(preset: str, sizes: list[tuple[int, int]]) -> None:
    spec = PRESETS[preset]
    assert [spec.kept_size(scale) for scale in spec.scales] == sizes


def test_a_spec_comes_back_from_its_json_unchanged() -> None:
    for spec in PRESETS.values():
        assert Spec.from_json(spec.to_json()) == spec


def test_a_spec_with_unknown_fields_or_values_is_refused_with_a_reason() -> None:
    text = PRESETS["tiny"].to_json()
    with pytest.raises(MusiqError, match="newer version"):
        Spec.from_json(text.replace('"kernel"', '"colour"'))
    with pytest.raises(MusiqError, match=r"Spec\.kernel is 'lanczos'; expected one of cubic, gaussian"):
        Spec.from_json(text.replace('"cubic"', '"lanczos"'))
    with pytest.raises(MusiqError, match=r"Spec\.height is 65536; expected a whole number of 1 to 65535"):
        PRESETS["tiny"].at(65536, 256)


def test_a_spec_for_any_size_counts_the_tokens_of_each_image_by_its_own_size() -> None:
    spec = PRESETS["musiq"].at_any_size()
    assert spec.any_size
    assert spec.size_name == "any"
    assert Spec.from_json(spec.to_json()) == spec
    # 1 for the class, 7 x 6 and 12 x 9 for the longer sides 224 and 384, 32 x 24 for the image itself.
    assert spec.at(768, 1024).tokens == 1 + 7 * 6 + 12 * 9 + 32 * 24
    assert spec.at(10, 100).tokens == 1 + 7 * 1 + 12 * 2 + 4 * 1
    with pytest.raises(MusiqError, match="any size"):
        spec.size(spec.scales[0])


def test_one_side_alone_is_no_size_and_the_reimplementation_has_one_size_only() -> None:
    with pytest.raises(MusiqError, match=r"Spec\.width is None; expected a whole number like the other side"):
        dataclasses.replace(PRESETS["tiny"], width=None)
    with pytest.raises(MusiqError, match="resnet50-classic has no form for images of any size"):
        PRESETS["resnet50-classic"].at_any_size()


def test_scale_names_are_the_inputs_of_a_pyramid_export() -> None:
    assert [scale.name for scale in (Scale(), Scale(384), Scale(224))] == ["native", "scale_384", "scale_224"]


def test_specs_of_presets_name_their_own_preset() -> None:
    assert all(spec.preset == name for name, spec in PRESETS.items())
    assert dataclasses.replace(PRESETS["musiq"], outputs=10).outputs == 10


def test_a_preset_is_for_the_size_that_is_asked_for_and_an_unknown_one_is_named_with_the_others() -> None:
    assert (preset("tiny").height, preset("tiny").width) == (192, 256)
    assert (preset("tiny", 96, 128).height, preset("tiny", 96, 128).width) == (96, 128)
    with pytest.raises(MusiqError, match=r"no preset 'huge'; the presets are resnet50, "):
        preset("huge")


@pytest.mark.parametrize("name", PRESETS)
def test_a_spec_that_says_how_images_are_made_to_fit_is_read_where_that_is_the_way_there_is(name: str) -> None:
    values = json.loads(PRESETS[name].to_json())
    assert "fit" not in values
    assert Spec.from_json(json.dumps({**values, "fit": "cover"})) == PRESETS[name]
    with pytest.raises(MusiqError, match="newer version"):
        Spec.from_json(json.dumps({**values, "fit": "letterbox"}))


@pytest.mark.parametrize("text", ["null", "[]", "-5", '"x"', "[" * 100_000])
def test_json_that_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(MusiqError, match="The Spec in this file cannot be read"):
        Spec.from_json(text)


SIZES = ("height", "width", "dim", "layers", "heads", "head_dim", "mlp_dim", "head_hidden", "outputs", "position_grid")


@pytest.mark.parametrize("value", [None, "x", [], {}, 1.5, True, 1_000_000_000])
@pytest.mark.parametrize("field", [*SIZES, "trunk_channels", "trunk_groups", "scale_embeddings"])
def test_a_size_of_another_type_or_out_of_its_range_is_refused_by_name(field: str, value: object) -> None:
    values = json.loads(PRESETS["tiny"].to_json())
    with pytest.raises(MusiqError, match=rf"Spec\.{field} is .*; expected a whole number"):
        Spec.from_json(json.dumps({**values, field: value}))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("dim", -1, "a whole number of 1 to"),
        ("head_hidden", -1, "a whole number of 0 to"),
        ("norm_eps", -1e-6, "a finite number of at least 0"),
        ("score_scale", float("nan"), "a finite number"),
        ("score_shift", 10**400, "a finite number"),
        ("mean", [0.5, 0.5], "three finite numbers"),
        ("std", [0.5, 0, 0.5], "three finite numbers above 0"),
        ("score_range", "ab", "two finite numbers"),
        ("unbiased_std", 0, "true or false"),
        ("target", None, "text"),
        ("scales", [], "scales, at least one"),
        ("scales", [{"length": -3}], "scales, at least one"),
        ("trunk", "timm:../x", "one of resnet50"),
        ("trunk_strides", [8, 32], r"\(32,\) for patch"),
        ("trunk_strides", [32, 8], "some of 4, 8, 16, 32"),
        ("trunk_strides", 32, "some of 4, 8, 16, 32"),
        ("trunk_groups", 7, "a divisor of the 16 trunk_channels"),
    ],
)
def test_a_value_that_makes_no_model_is_refused_with_what_is_expected(field: str, value: object, expected: str) -> None:
    values = json.loads(PRESETS["tiny"].to_json())
    with pytest.raises(MusiqError, match=rf"Spec\.{field} is .*; expected {expected}"):
        Spec.from_json(json.dumps({**values, field: value}))


def test_sizes_that_only_together_are_beyond_any_memory_are_refused() -> None:
    with pytest.raises(MusiqError, match="expected at most 1e"):
        dataclasses.replace(PRESETS["tiny"], dim=65536, mlp_dim=65536, layers=1000)
