# One command for each habit. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help install retrain test soak lint format types clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

install: $(VENV)/installed  ## the environment in .venv, versions from constraints.txt

retrain: install  ## the main job: version, validate, train, evaluate, gate, export, promote
	@$(BIN)/serac retrain

test: install  ## the whole suite, with branch coverage, in TEST_PROCESSES (2)
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --cov --cov-report=term -m "not soak"

soak: install  ## random kills, long runs; not part of the tests
	$(BIN)/python -m pytest -m soak -s

lint: $(VENV)/dev  ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/dev  ## ruff's formatter and fixes
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

$(VENV)/dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev]'
	touch $@

clean:  ## remove the environment and what runs left behind (not the DVC cache)
	rm -rf $(VENV) build release .serac/runs
