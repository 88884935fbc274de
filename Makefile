# Two commands for a fresh machine: `make demo` and `make test`. Each sets up the virtual environment it needs first.
# `make test-all` also runs the tests that are slow by nature, as continuous integration does.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
DEMO ?= demo
PROCESSES ?= 2

.PHONY: demo test test-all lint bench-cpu clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.for-demo: setup.cfg pyproject.toml | $(BIN)/python
	$(INSTALL) '.[cpu,train,bench,demo]'
	touch $@

$(VENV)/.for-test: setup.cfg pyproject.toml | $(BIN)/python
	$(INSTALL) '.[all]'
	touch $@

$(VENV)/.for-bench: setup.cfg pyproject.toml | $(BIN)/python
	$(INSTALL) '.[cpu,openvino,train,bench,demo]'
	touch $@

# A tiny model trained on graded distortions of real photographs, exported, scored without torch, compared.
# Stopped in the middle, it goes on where it was.
demo: $(VENV)/.for-demo
	$(BIN)/python -m musiq.datasets.synthetic --out $(DEMO)/data
	$(BIN)/python train.py --preset tiny --labels $(DEMO)/data/labels.csv --out $(DEMO)/run --resume \
		--target "synthetic level of distortion (1-5)" --score-range 1 5
	$(BIN)/musiq-export --checkpoint $(DEMO)/run/best.safetensors --images $(DEMO)/data/test --out $(DEMO)/exports --name tiny
	$(BIN)/musiq-score $(DEMO)/data/test --model $(DEMO)/exports/tiny.onnx --out $(DEMO)/scores.csv
	$(BIN)/musiq-bench --images $(DEMO)/data/test --labels $(DEMO)/data/labels.csv --models $(DEMO)/exports/tiny.onnx \
		--checkpoint $(DEMO)/run/best.safetensors --max-images 0 --out $(DEMO)/reports

# The CPU rows of docs/benchmarks.md on this machine, into results/: hours, and it goes on where it was stopped. With photographs
# of your own: make bench-cpu IMAGES=photos/
bench-cpu: $(VENV)/.for-bench
	$(if $(IMAGES),,$(BIN)/python -m musiq.datasets.synthetic --out $(DEMO)/data)
	PATH="$(CURDIR)/$(BIN):$$PATH" results/cpu.sh $(or $(IMAGES),$(DEMO)/data/test)

# Two processes by default, each with the files that it takes: most of the time one of them loads and saves.
PYTEST = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

test: $(VENV)/.for-test lint
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.for-test lint
	$(PYTEST)

lint: $(VENV)/.for-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist *.egg-info
