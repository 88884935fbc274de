# Two commands for a fresh machine: `make demo` and `make test`. Each sets up the virtual environment it needs first.
# `make test-all` also runs the tests that are slow by nature, as continuous integration does.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
DEMO ?= demo
PROCESSES ?= 2

PHOTOS = examples/photos

.PHONY: demo bundled test test-all lint docs release-check bench-cpu clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.for-demo: setup.cfg pyproject.toml | $(BIN)/python
	$(INSTALL) '.[cpu,openvino,train,bench,demo]'
	touch $@

$(VENV)/.for-test: setup.cfg pyproject.toml | $(BIN)/python
	$(INSTALL) '.[all]'
	touch $@

$(VENV)/.for-bench: setup.cfg pyproject.toml | $(BIN)/python
	$(INSTALL) '.[cpu,openvino,train,bench,demo]'
	touch $@

$(VENV)/.for-docs: setup.cfg pyproject.toml | $(BIN)/python
	$(INSTALL) '.[docs]'
	touch $@

$(VENV)/.for-release: setup.cfg pyproject.toml | $(BIN)/python
	$(INSTALL) '.[release]'
	touch $@

# The model that comes with musiq scores photographs that people have rated, is exported, and its files are compared with
# people. int8 has to be faster than fp32 and to agree: what is refused is a row that says why. In the end a tiny model learns
# to tell graded distortions of photographs apart, which shows the loop; stopped in the middle, it goes on where it was.
demo: $(VENV)/.for-demo
	$(BIN)/musiq-score $(PHOTOS) --model lite-clive --out $(DEMO)/scores.csv
	$(BIN)/python -m musiq.datasets.synthetic --out $(DEMO)/data --versions 2
	$(BIN)/musiq-export --checkpoint lite-clive --format onnx --format openvino --precision fp32 --precision int8 \
		--images $(PHOTOS) --calibration-images $(DEMO)/data/val --out $(DEMO)/exports --name lite-clive || test $$? = 1
	test -f $(DEMO)/exports/lite-clive.onnx && test -f $(DEMO)/exports/lite-clive.xml
	$(BIN)/musiq-bench --images $(PHOTOS) --labels $(PHOTOS)/labels.csv --models $(DEMO)/exports --checkpoint lite-clive \
		--max-images 0 --calls 50 --out $(DEMO)/reports
	$(BIN)/python train.py --preset tiny --labels $(DEMO)/data/labels.csv --out $(DEMO)/run --resume --epochs 2 \
		--target "synthetic level of distortion (1-5)" --score-range 1 5

# The files of the model in the box, from a checkpoint: make bundled CHECKPOINT=runs/lite/best.safetensors RESIZE=longer=512
bundled: $(VENV)/.for-demo
	$(BIN)/python -m musiq_export.bundle --checkpoint $(CHECKPOINT) $(if $(RESIZE),--resize $(RESIZE))

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

# These pages, with references of commands and of Python made from the code, in docs/_build/html. They load nothing from
# anywhere, and are searched without a server.
docs: $(VENV)/.for-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going docs docs/_build/html

# The sdist and the wheel are whole: both are made and checked, and the wheel scores a photograph in a bare environment.
release-check: $(VENV)/.for-release
	rm -rf dist build
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m venv --clear build/bare
	build/bare/bin/python -m pip install --quiet --disable-pip-version-check "$$(echo dist/*.whl)[cpu]"
	cd build && bare/bin/musiq-score ../$(PHOTOS)/767.JPG

lint: $(VENV)/.for-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo build dist docs/_build *.egg-info
