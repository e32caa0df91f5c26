# `make demo` and `make test` work on a fresh clone with Python 3.11+ and make: each builds .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
export JAX_PLATFORMS ?= cpu

.PHONY: install demo test test-slow test-gpu lint types docs-check wheel-check clean

install: $(STAMP)

# torch comes first and alone, pinned. On Linux PyPI's own build is the CUDA one, of several GB; pip prefers the CPU build
# (2.13.0+cpu) of an index that PIP_EXTRA_INDEX_URL names, see README.
$(STAMP): pyproject.toml constraints.txt
	@echo "== building $(VENV) (a few minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[export,speech,test,dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/mvp4d demo --out out/demo

# WORKERS test files at a time.
test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

test-gpu: $(STAMP)
	JAX_PLATFORMS=cuda,cpu $(BIN)/python -m pytest -m gpu

lint: types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if command -v shellcheck >/dev/null; then shellcheck -x launch/*.sh; else echo "shellcheck is not installed"; fi

# The folders configs/ and export/ under the names that they are imported by.
types: $(STAMP)
	mkdir -p build/types
	ln -sfn ../../configs build/types/mvp4d_configs
	ln -sfn ../../export build/types/mvp4d_export
	$(BIN)/basedpyright

# Builds wheel and sdist, and runs what the wheel installs.
wheel-check: $(STAMP)
	$(BIN)/python tests/wheel_check.py

docs-check: $(STAMP)
	$(BIN)/python tests/docs_check.py

clean:
	rm -rf $(VENV) .cache out build *.egg-info
