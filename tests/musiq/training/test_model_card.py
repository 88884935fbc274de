"""The model card of a finished run."""

from __future__ import annotations

import json
from pathlib import Path


def test_the_card_tells_data_terms_figures_and_limits(finished_run: Path) -> None:
    card, found = (finished_run / "MODEL_CARD.md").read_text(), json.loads((finished_run / "metrics.json").read_text())
    assert found["target"] in card
    assert "| terms of the data | for research |" in card
    assert "12 train, 12 val, 12 test" in card
    low, high = found["srcc_interval"]
    assert f"| all test images | 12 | {found['srcc']:.4f} ({low:.3f} to {high:.3f}) |" in card
    assert "| without near duplicates | 8 |" in card
    assert "## Limits" in card
