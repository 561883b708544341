# Everything runs in a virtual environment of its own; each target makes it first if need be.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-fast check format up bench docs clean

## demo: the main job, end to end, with faults; the figures are printed and in var/demo/report.json
demo: $(INSTALLED)
	$(BIN)/python -m examples.demo

## test: all tests
test: $(INSTALLED)
	$(BIN)/python -m pytest

## test-fast: all but those that start processes or run many seeds
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow"

## check: format, lint, types, and that the generated parts of the docs are current
check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tests.generate_docs --check

## format: what `check` would complain of, where a program can mend it
format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

## docs: writes the generated parts of the docs anew
docs: $(INSTALLED)
	$(BIN)/python -m tests.generate_docs

## up: the pool with the demo model, in the foreground; stop it with Ctrl-C
up: $(INSTALLED)
	$(BIN)/python -m examples.up

## bench: the figures of docs/performance.md
bench: $(INSTALLED)
	$(BIN)/python -m bench.broker
	$(BIN)/python -m bench.faults
	$(BIN)/python -m bench.pictures

clean:
	rm -rf $(VENV) var build dist *.egg-info

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hotpool needs Python 3.11 or newer, $(PYTHON) is older; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
