# The front door. `make study` and `make test` set everything up themselves; nothing but Python 3.11 and make is needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
CONFIG ?= quickstart
# processes that compute independent steps at the same time; a larger study may not have the memory for two
WORKERS ?= $(if $(filter quickstart,$(CONFIG)),2,1)

.PHONY: help setup study test test-fast matrix torture coverage wheel check docs format bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# compiled where they are first imported: of these packages, few modules or none are
SELDOM := /(tests|testing|transformers/models|ray|pip|networkx|fontTools|openai)/

setup: $(DEV) ## make .venv with pinned dependencies, all of them; does nothing where that is up to date

# all that a study needs is also needed by the tests
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '$(1)'
# on all cores; pip does it on one
compile = $(BIN)/python -m compileall -qq -j 0 -x '$(SELDOM)' $(VENV)/lib || true

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "uwc needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.)
	@$(compile)
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.[dev])
	@$(compile)
	@touch $(STAMP) $@

study: $(STAMP) ## run the quick-start study (4 to 9 minutes on 2 cores); CONFIG=... for another study
	$(BIN)/uwc study run $(CONFIG) --workers $(WORKERS)

# one process a core, and whole files to each, in alphabetical order: the last ones take seconds
IN_TURN := -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: setup ## run the tests, one process a core
	$(BIN)/python -m pytest $(IN_TURN)

# the unit tests of these packages train models, or run studies
TRAINED := attacks models studies training workflows

test-fast: setup ## the quick tests, in about a minute on 2 cores
	$(BIN)/python -m pytest $(IN_TURN) -m "not slow and not matrix" \
	  tests/unit tests/contract tests/architecture $(TRAINED:%=--ignore=tests/unit/%)

matrix: setup ## check some fifty architectures against plain transformers (15 minutes); writes docs/models.md
	UWC_MATRIX_TABLE=docs/models.md $(BIN)/python -m pytest tests/matrix -m ""

torture: setup ## try kills, damaged files, full disks and thousands of bad inputs (an hour); writes docs/reliability.md
	UWC_TORTURE=whole UWC_TORTURE_TABLE=docs/reliability.md $(BIN)/python -m pytest -n logical --maxprocesses 8 \
	  --dist worksteal tests/torture

coverage: setup ## run the tests, and fail where they cover less of the code than pyproject.toml says
	$(BIN)/python -m pytest $(IN_TURN) --cov --cov-report=term --cov-report=html:build/coverage

wheel: setup ## build the wheel, and run the quick start with it in an empty environment, from an empty folder
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt nox
	$(BIN)/python -m nox -s wheel

docs: setup ## build the documentation's site in build/docs; a warning or a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "the site is in build/docs/index.html"

check: setup ## lint, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: setup ## run the benchmarks (DEVICE=cpu or cuda): one table, and benchmarks/results.json
	$(BIN)/python benchmarks/run.py $(if $(DEVICE),--device $(DEVICE))

format: setup ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove everything made here
	rm -rf $(VENV) runs build dist src/*.egg-info .nox .mypy_cache .ruff_cache .pytest_cache .hypothesis
