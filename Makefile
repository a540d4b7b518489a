PYTHON ?= python3
VENV ?= .venv
SEEDS ?= 0
BIN := $(VENV)/bin

.PHONY: demo test check clean

demo: $(VENV)/.installed  ## search, retrain, eval, profile and draw on real digits
	$(BIN)/python tools/demo.py --seeds $(SEEDS)

test: $(VENV)/.installed  ## the whole default test suite
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(VENV)/.installed  ## formatting, lint and types
	$(BIN)/ruff format --check binas tools tests
	$(BIN)/ruff check binas tools tests
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
