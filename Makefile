# One command per need. `make demo` and `make test` work on a fresh machine with Python alone.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Installed first and pinned, so that no dependency pulls another build. Where the package index serves
# torch with CUDA, TORCH_INDEX can name PyTorch's own index of CPU wheels.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=

.PHONY: demo test test-all check bench docs pretrain clean

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(PIP) -e ".[dev]"
	@touch $@

demo: $(READY)  # fine-tune the shipped CLIP two ways and show what is left of it
	$(BIN)/clipdrift demo

test: $(READY)  # everything but the slow tests
	$(BIN)/python -m pytest

test-all: $(READY)  # slow ones too
	$(BIN)/python -m pytest -m "slow or not slow"

check: $(READY)  # style, types, directions of imports, sizes of files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/sizes.py

bench: $(READY)  # ratios, measured side by side in one run
	$(BIN)/python benchmarks/attention_rows.py
	$(BIN)/python benchmarks/decoded_once.py

docs: $(READY)  # write the reference pages from the code
	$(BIN)/python tools/reference.py

pretrain: $(READY)  # make clipdrift/mini again; see its card for how long that takes
	$(BIN)/clipdrift pretrain --out runs/mini

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
