"""The model in the box: the one that this package brings, and what is scored, exported and measured when none is named.

`make bundled` writes its files (`musiq_export.bundle`); MODEL_CARD.md beside them says what it is, NOTICE.txt what the
terms of its training images ask for.
"""

from __future__ import annotations

from pathlib import Path

from musiq.errors import MusiqError
from musiq.terminal import tell

NAME = "lite-clive"
"""Of the model, also where commands take a name: its preset, and the photographs that it was trained on."""

FOLDER = Path(__file__).parent


def bundled_artifact() -> Path:
    """The ONNX file of the model in the box, for images of any size. Raises MusiqError where it was not packaged."""
    return _there(f"{NAME}.onnx")


def bundled_checkpoint() -> Path:
    """The weights that `bundled_artifact` was made from. Raises MusiqError where they were not packaged."""
    return _there(f"{NAME}.safetensors")


def default_model(exports: Path = Path("exports")) -> Path:
    """What scores where no model is named: the newest ONNX file in `exports`, else the one in the box; says which on
    stderr. Raises MusiqError where there is neither."""
    return _newest(exports, "*.onnx", "Model") or _said("Model", bundled_artifact())


def default_checkpoint(runs: Path = Path("runs")) -> Path:
    """What is exported where no checkpoint is named: the best of the newest run in `runs`, else that of the box; says
    which on stderr. Raises MusiqError where there is neither."""
    return _newest(runs, "*/best.safetensors", "Checkpoint") or _said("Checkpoint", bundled_checkpoint())


def _newest(folder: Path, pattern: str, kind: str) -> Path | None:
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        return None
    tell(f"{kind}: {found[-1]}, the newest in {folder}/")
    return found[-1]


def _said(kind: str, path: Path) -> Path:
    tell(f"{kind}: {NAME}, which comes with musiq")
    return path


def _there(name: str) -> Path:
    path = FOLDER / name
    if not path.is_file():
        raise MusiqError(
            f"This installation of musiq lacks its model {name}. Install it again, or name a model: one that musiq-export "
            "made, or a checkpoint."
        )
    return path
