# Everything runs in a virtual environment of its own; each target makes it first if need be.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Chromium for the tests of the page is taken from the distribution where there is none.
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# Images of Python for containers often set it: each process of a test would compile all of ours, and pytest all assertions, anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast browser load-generator check format up bench docs clean

## demo: the main job, end to end, with faults; the figures are printed and in var/demo/report.json
demo: $(INSTALLED)
	$(BIN)/python -m examples.demo

# Several files at once; what the tests of a file share is made once. In the order of their names: by their number of tests, which is
# xdist's way, files of few long tests come last, and one of them keeps a process busy when the others are done.
# Four at once at most, and else one more than there are cores: many tests wait for processes of theirs, and two cores were idle
# for a third of the time.
BESIDE = -n $(shell $(BIN)/python -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))') --dist loadfile --no-loadscope-reorder

## test: all tests: those that bear company first, then the others one by one
test: $(INSTALLED) browser
	$(BIN)/python -m pytest $(BESIDE) -m "not alone"
	$(BIN)/python -m pytest -m alone

## test-fast: all but those that start processes or run many seeds or long ways
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest $(BESIDE) -m "not slow"

## load-generator: wrk, for the benchmark of HTTP
load-generator:
ifeq ($(shell command -v wrk),)
	$(SUDO) apt-get update -qq
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq wrk
endif

## browser: a headless Chromium for the tests of the page
browser:
ifeq ($(CHROMIUM),)
	$(SUDO) apt-get update -qq
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium
endif

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

## bench: the figures of bench/results.md, beside others' engines; ten minutes on an idle machine
bench: $(VENV)/.bench load-generator
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) var build dist *.egg-info

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "hotpool needs Python 3.11 or newer, $(PYTHON) is older; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(VENV)/.bench: $(INSTALLED) requirements-bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	touch $@
