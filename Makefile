PYTHON ?= python3
EXPERIMENT ?= goal-position
ARGS ?=
BIN := .venv/bin

TORCH ?= torch==2.13.0
RELEASE_TOOLS := 'build>=1.2,<2' 'twine>=6.1,<8' 'uv>=0.8,<1'

# What needs PyTorch.
LM := tests/lm tests/studies/happy_tweets src/bilevel_rl/lm src/bilevel_rl/studies/happy_tweets
WITHOUT_LM := $(LM:%=--ignore=%)

WORKERS ?= 2
# Rooms whose quick tests reach every dependency of the core.
FLOORS ?= tests/formulation tests/exact tests/environments tests/runs

PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: run test test-rest test-long test-all coverage lm test-lm lint docs tutorials release-check test-floors clean

run: .venv/.installed
	$(BIN)/bilevel-rl run $(EXPERIMENT) $(ARGS)

# Every unit, oracle and contract, and one kill-and-resume: minutes.
test: .venv/.installed-dev
	$(PYTEST) -m 'not slow' $(WITHOUT_LM) $(ARGS)

# Sampling with many draws, long runs, whole commands, storms of kills, several processes.
test-rest: .venv/.installed-dev
	$(PYTEST) -m 'slow and not long' $(WITHOUT_LM) $(ARGS)

# The same again for every method, experiment and key: by hand, before a release.
test-long: .venv/.installed-dev
	$(PYTEST) -m long $(WITHOUT_LM) $(ARGS)

test-all: test test-rest test-long

coverage: .venv/.installed-dev
	$(PYTEST) --cov --cov-report=term $(WITHOUT_LM) $(ARGS)

lm: .venv/.installed-lm

test-lm: .venv/.installed-dev .venv/.installed-lm
	$(PYTEST) -m 'not long' $(LM) $(ARGS)

lint: .venv/.installed-dev .venv/.installed-lm
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

# The site, in site/: strict, so that a broken link is an error.
docs: .venv/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Runs every tutorial in an empty folder, and keeps the pictures that it draws for its page.
tutorials: .venv/.installed-dev .venv/.installed-lm
	folder=$$(mktemp -d) && for tutorial in $(CURDIR)/docs/tutorials/*.py; do \
	    (cd $$folder && MPLBACKEND=Agg $(CURDIR)/$(BIN)/python $$tutorial) || exit 1; \
	done && cp $$folder/*.png docs/images/tutorials/

# Wheel and sdist in dist/: built, looked into, and the wheel used where nothing else is installed.
release-check: .venv/.installed-release
	$(BIN)/python dev/release/check.py

# The oldest dependencies that pyproject.toml allows, in an environment of their own.
test-floors: .venv/.installed-release
	$(BIN)/uv venv --quiet --clear --python 3.11 .venv-floors
	$(BIN)/uv pip install --quiet --python .venv-floors/bin/python --resolution lowest-direct \
		--requirements pyproject.toml --extra dev
	$(BIN)/uv pip install --quiet --python .venv-floors/bin/python --no-deps --editable .
	.venv-floors/bin/python -m pytest -n $(WORKERS) --dist loadfile -m 'not slow' $(FLOORS) $(ARGS)

clean:
	rm -rf .venv .venv-floors dist site

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.installed-lm: .venv/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[lm]'
	touch $@

.venv/.installed-dev: .venv/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

.venv/.installed-docs: .venv/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

.venv/.installed-release: .venv/bin/python Makefile
	$(BIN)/python -m pip install --quiet $(RELEASE_TOOLS)
	touch $@
