# One command per need. `make demo` and `make test` work on a fresh machine with Python alone.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# the CPU build; anything else that torch offers pulls gigabytes of CUDA
TORCH ?= torch==2.13.0

.PHONY: demo test test-all check bench docs pretrain clean

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --extra-index-url https://download.pytorch.org/whl/cpu "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(READY)  ## fine-tune the shipped CLIP two ways and show what is left of it
	$(BIN)/clipdrift demo

test: $(READY)  ## everything but slow studies
	$(BIN)/python -m pytest

test-all: $(READY)  ## slow studies too
	$(BIN)/python -m pytest -m "slow or not slow"

check: $(READY)  ## style, types, directions of imports, sizes of files
	$(BIN)/ruff check src tests tools benchmarks
	$(BIN)/ruff format --check src tests tools benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/sizes.py

bench: $(READY)  ## ratios measured side by side
	$(BIN)/python benchmarks/shared_work.py

docs: $(READY)  ## listings and the tree in the documentation, checked against the code
	$(BIN)/python -m pytest tests/test_docs.py

pretrain: $(READY)  ## make clipdrift/mini again, about half an hour on two cores
	$(BIN)/clipdrift pretrain --out runs/mini

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
