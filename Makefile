PYTHON ?= python3
VENV ?= .venv
SEEDS ?= 0
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
ROOMS := $(sort $(notdir $(patsubst %/,%,$(dir $(wildcard tests/*/test_*.py)))))

.PHONY: help install demo test check coverage ci-extra clean

help:  ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo "rooms: $(ROOMS)"

install: $(VENV)/.installed  ## the environment that all other targets use

demo: $(VENV)/.installed  ## search, retrain, eval, profile and draw on real digits
	$(BIN)/python tools/demo.py --seeds $(SEEDS)

test: $(VENV)/.installed  ## the whole default test suite
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-%: $(VENV)/.installed  ## the tests of one room, e.g. make test-search
	@test -n "$(filter $*,$(ROOMS))" || { echo "make test-$*: no such room; rooms: $(ROOMS)"; exit 2; }
	$(BIN)/python -m pytest -q -n 2 --dist worksteal tests/$*

check: $(VENV)/.installed  ## formatting, lint, layers of imports and types
	$(BIN)/ruff format --check binas tools tests
	$(BIN)/ruff check binas tools tests
	$(BIN)/lint-imports
	$(BIN)/mypy

coverage: $(VENV)/.installed  ## branches of binas that the default tests run, subprocesses too; twice the time
	$(BIN)/python tools/measuring/branch_coverage.py

ci-extra: $(VENV)/.installed  ## slow tests, oldest torch, other Pythons; adds a row to benchmarks/ci_extra.md
	$(BIN)/python tools/ci_extra.py

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:  ## removes the environment and everything built
	rm -rf $(VENV) .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.*
