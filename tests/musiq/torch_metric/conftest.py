"""Small checkpoints whose scores differ from image to image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NARROW = {"trunk_channels": 8, "trunk_groups": 4, "dim": 24, "layers": 2, "heads": 2, "head_dim": 12, "mlp_dim": 32}


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves a narrow model of a preset, for any size unless told otherwise; the path of its checkpoint."""
    from musiq.model import checkpoint
    from tests.recipe import lively_model

    folder = tmp_path_factory.mktemp("narrow")

    def save(preset: str = "tiny", **changes: Any) -> Path:
        facts = {**NARROW, "height": None, "width": None, **changes}
        path = folder / f"{preset}-{abs(hash(str(sorted(changes.items()))))}.safetensors"
        if not path.exists():
            checkpoint.save(lively_model(preset, **facts), path)
        return path

    return save
