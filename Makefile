# `make demo` and `make test` do all the set-up themselves, in .venv; `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow lint clean
help:
	@echo "make demo       set up, train a sparse network on handwritten digits, write a report"
	@echo "make test       set up, then lint, type checks and the tests"
	@echo "make test-slow  the tests that take minutes"
	@echo "make lint       ruff and mypy only"
	@echo "make clean      remove the environment and caches"

# Installed once, and again when what is to be installed changes.
$(VENV)/installed: pyproject.toml constraints.txt
	@echo "== Setting up $(VENV) (PyTorch and friends; a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(VENV)/installed
	@echo "== Training a network on handwritten digits with 90 % of its connections gone"
	$(BIN)/lpsphere train --out runs/demo --overwrite
	@echo "== Open runs/demo/report.html in a browser"

lint: $(VENV)/installed
	@echo "== Lint and type checks"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	@echo "== Tests"
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
