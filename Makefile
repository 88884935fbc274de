# Two commands for a fresh machine: `make demo` and `make test`. Both set up their own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test lint clean

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all]'
	touch $(READY)

# A tiny model trained on synthetic distortions of real photographs, exported, scored without torch, compared.
demo: $(READY)
	$(BIN)/python -m musiq.demo --out demo/data
	$(BIN)/python train.py --preset tiny --labels demo/data/labels.csv --out demo/run --fresh
	$(BIN)/musiq-export --checkpoint demo/run/best.safetensors --format onnx --images demo/data --out demo/exports --name tiny
	$(BIN)/musiq-score demo/data/test --model demo/exports/tiny.onnx --out demo/scores.csv
	$(BIN)/musiq-bench --images demo/data --labels demo/data/labels.csv --split test --models demo/exports --out demo/reports

test: $(READY) lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist *.egg-info
