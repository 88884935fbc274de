# Two commands for a fresh machine: `make demo` and `make test`. Each sets up the virtual environment it needs first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
EXPORTS = demo/exports
PROCESSES ?= 2

.PHONY: demo test lint bench-cpu clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.for-demo: setup.cfg pyproject.toml | $(BIN)/python
	$(INSTALL) '.[cpu,train,bench,demo]'
	touch $@

$(VENV)/.for-test: setup.cfg pyproject.toml | $(BIN)/python
	$(INSTALL) '.[all]'
	touch $@

$(VENV)/.for-bench: setup.cfg pyproject.toml | $(BIN)/python
	$(INSTALL) '.[cpu,openvino,train,bench,demo,test]'
	touch $@

# A tiny model trained on graded distortions of real photographs, exported, scored without torch, compared.
# Stopped in the middle, it goes on where it was.
demo: $(VENV)/.for-demo
	$(BIN)/python -m musiq.datasets.synthetic --out demo/data
	$(BIN)/python train.py --preset tiny --labels demo/data/labels.csv --out demo/run --resume \
		--target "synthetic level of distortion (1-5)" --score-range 1 5
	$(BIN)/musiq-export --checkpoint demo/run/best.safetensors --images demo/data/test --out $(EXPORTS) --name tiny
	$(BIN)/musiq-score demo/data/test --model $(EXPORTS)/tiny.onnx --out demo/scores.csv
	$(BIN)/musiq-bench --images demo/data/test --labels demo/data/labels.csv --models $(EXPORTS)/tiny.onnx \
		--checkpoint demo/run/best.safetensors --max-images 0 --out demo/reports

# The CPU rows of the README on this machine, into results/: hours, and it goes on where it was stopped. With photographs
# of your own: make bench-cpu IMAGES=photos/
bench-cpu: $(VENV)/.for-bench
	$(if $(IMAGES),,$(BIN)/python -m musiq.datasets.synthetic --out demo/data)
	PATH="$(CURDIR)/$(BIN):$$PATH" results/cpu.sh $(or $(IMAGES),demo/data/test)

# Two processes by default, each with the files that it takes: most of the time one of them loads and saves.
test: $(VENV)/.for-test lint
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.for-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist *.egg-info
