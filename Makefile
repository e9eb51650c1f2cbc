# One command per need. `make demo` and `make test` work on a fresh machine with Python alone.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Installed first and pinned, so that no dependency pulls another build. Where the package index serves
# torch with CUDA, TORCH_INDEX can name PyTorch's own index of CPU wheels.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=

.PHONY: demo test test-all test-open-clip gpu-check gpu-wheels check bench docs pretrain evidence evidence-report clean

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(PIP) -e ".[dev]"
	@touch $@

demo: $(READY)  # fine-tune the shipped CLIP two ways and show what is left of it
	$(BIN)/clipdrift demo

# Processes that share the tests; each of them runs torch on one thread.
WORKERS ?= 2

# Where Python is told to keep nothing compiled, each process that a test starts would compile clipdrift anew.
test test-all: export PYTHONDONTWRITEBYTECODE :=

test: $(READY)  # everything but the slow tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-all: $(READY)  # slow ones too
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not cuda"
	$(MAKE) gpu-check DEVICE=cpu SMALL=1 OUT=runs/gpu-rehearsal

# An environment laid over the first one, so that torch is not installed again. OpenCLIP imports torchvision, of
# which 0.16.2 is the last release that can be imported beside a torch that it was not built for.
OVERLAY := .venv-open-clip
OPEN_CLIP ?= open_clip_torch==3.3.0
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))

$(OVERLAY)/.ready: $(READY)
	rm -rf $(OVERLAY)
	$(BIN)/python -m venv --without-pip $(OVERLAY)
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(PURELIB)')')" \
	  > "$$($(OVERLAY)/bin/python -c '$(PURELIB)')/base.pth"
	$(BIN)/python -m pip --python $(OVERLAY)/bin/python install --quiet --disable-pip-version-check --no-deps \
	  "$(OPEN_CLIP)" torchvision==0.16.2 timm==1.0.29 ftfy wcwidth requests urllib3 charset_normalizer certifi idna
	@touch $@

test-open-clip: $(OVERLAY)/.ready  # reading, loading and training OpenCLIP's models, which the default suite leaves out
	$(OVERLAY)/bin/python -m pytest -W "ignore:Failed to load image Python extension:UserWarning" tests/openclip tests/families

# The check for a machine with a GPU: docs/gpu.md. It runs with that machine's own Python and installs nothing. With
# DEVICE=cpu it is rehearsed here in an environment that has what such a machine has, and not all that clipdrift needs.
OUT ?= runs/gpu-check
DEVICE ?= cuda
SMALL ?=
WHEELS := .wheels
REHEARSAL := .venv-gpu
PYTHON312 ?= $(shell python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null || ls $$HOME/.pyenv/versions/3.12*/bin/python 2>/dev/null | tail -1)

gpu-wheels: $(READY)  # with a network: small wheels that a machine with a GPU may lack
	$(BIN)/python tools/gpu/wheels.py $(WHEELS)

$(WHEELS)/.ready: $(READY) tools/gpu/wheels.py
	$(BIN)/python tools/gpu/wheels.py $(WHEELS)
	@touch $@

$(REHEARSAL)/.ready: tools/gpu/machine.txt
	@test -n "$(PYTHON312)" || { echo "no Python 3.12 found; say make gpu-check ... PYTHON312=/path/to/python3.12"; exit 1; }
	rm -rf $(REHEARSAL)
	$(PYTHON312) -m venv $(REHEARSAL)
	$(REHEARSAL)/bin/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r tools/gpu/machine.txt
	$(REHEARSAL)/bin/python -m pip uninstall --quiet --yes --disable-pip-version-check pydantic pydantic-core datasets
	@touch $@

gpu-check: $(if $(filter cpu,$(DEVICE)),$(WHEELS)/.ready $(REHEARSAL)/.ready)  # prove and measure on a GPU
	$(if $(filter cpu,$(DEVICE)),$(REHEARSAL)/bin/python,$(PYTHON)) tools/gpu_check.py --out $(OUT) --device $(DEVICE) \
	  --wheels $(WHEELS) $(if $(SMALL),--small) $(if $(wildcard $(DATA)/land-use-7),--data $(DATA))

check: $(READY)  # style, types, directions of imports, sizes of files
	$(BIN)/ruff check --no-cache  # what it remembers of imports goes stale when a module moves
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports
	$(BIN)/python tools/sizes.py

bench: $(READY)  # ratios, measured side by side in one run
	$(BIN)/python benchmarks/attention_rows.py
	$(BIN)/python benchmarks/decoded_once.py
	$(BIN)/python benchmarks/measuring.py
	$(BIN)/python benchmarks/frozen.py
	$(BIN)/python benchmarks/shared.py
	$(BIN)/python benchmarks/records.py
	$(BIN)/python benchmarks/captions_read.py
	$(BIN)/python benchmarks/monitor.py

docs: $(READY)  # write the reference pages from the code
	$(BIN)/python tools/reference.py

pretrain: $(READY)  # make clipdrift/mini again; see its card for how long that takes
	$(BIN)/clipdrift pretrain --out runs/mini

# The folder that holds the images of land-use-7, pets-37 and cifar100; docs/evidence.md says where they are from.
DATA ?= data
EVIDENCE := evidence/photographs
STUDY := runs/photographs
# Processes that divide the runs; each of them runs torch on one thread.
PROCESSES ?= 2

evidence: $(READY)  # the study on photographs from where its records end, then the pages; three hours on two cores
	@test -d "$(DATA)/land-use-7" || { echo "no $(DATA)/land-use-7: say make evidence DATA=FOLDER (docs/evidence.md)"; exit 1; }
	$(BIN)/python tools/evidence.py unpack $(EVIDENCE) $(STUDY)
	$(BIN)/python tools/evidence.py run $(DATA) $(STUDY) $(EVIDENCE) $(PROCESSES)
	$(MAKE) evidence-report

evidence-report: $(READY)  # report, page of findings and the README's table, from the committed records
	$(BIN)/python tools/evidence.py write $(EVIDENCE)

clean:
	rm -rf .venv .venv-open-clip .venv-gpu .wheels runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
