PYTHON ?= python3
EXPERIMENT ?= goal-position
ARGS ?=
BIN := .venv/bin

.PHONY: run test lint clean

run: .venv/.installed
	$(BIN)/bilevel-rl run $(EXPERIMENT) $(ARGS)

test: .venv/.installed-dev
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term $(ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.installed-dev: .venv/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
