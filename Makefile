# Everything is installed into .venv; the machine needs only Python and make.
PYTHON ?= python3
# More arguments for pytest, for instance: make test ARGS="-k ring -x"; ARGS="-n 0" runs all tests in one process
# And for notebooks/execute.py: make notebooks ARGS="05_explore --keep"
ARGS ?=

BIN := .venv/bin
# Stamps: the installer, what the demo needs, everything for tests and checks, and what the documentation needs
INSTALLER := .venv/installer
DEMO := .venv/demo
ALL := .venv/all
DOCS := .venv/docs
EXTRAS := mpi,data,dayabay,explore,notebooks,test,lint
# Versions that are known to work together, so that pip need not search for them
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python .ci/install.py .venv/install.log
PINNED := --constraint constraints.txt
# pip, Jupyter and matplotlib keep caches and settings in HOME.  Where there is none, or it is read-only, use a folder here.
ifneq ($(shell test -n "$$HOME" && test -w "$$HOME" && echo writable),writable)
export HOME := $(CURDIR)/.venv/home
endif
# Tests of MPI and of schedulers run one by one in one process, and all others in the other one.
PARALLEL = --numprocesses 2 --dist loadgroup
# Keep profiles and logs of engines out of ~/.ipython, and use the mpiexec that belongs to the installed mpi4py.
RUN = IPYTHONDIR="$(CURDIR)/.ipython" PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python

.PHONY: help install wheels demo notebooks test test-quick test-gpu lint format docs docs-links docs-code clean distclean
.DEFAULT_GOAL := help

help:
	@echo "make demo        run the example notebooks on MPI engines of this machine and print the results"
	@echo "make notebooks   execute all notebooks, which takes an hour on 2 cores, and store their outputs in them; for one of"
	@echo "                 them: make notebooks ARGS=05_explore"
	@echo "make test        run all tests"
	@echo "make test-quick  run all tests except slow ones and those of a batch scheduler"
	@echo "make test-gpu    run the tests of accelerators, and benchmarks/gpu.py for two minutes, on a machine that has one"
	@echo "make lint        check style, format, types, docstrings and the order of imports"
	@echo "make format      correct style and format where that can be done automatically"
	@echo "make docs        build the documentation into build/docs; make docs-links checks its external links,"
	@echo "                 make docs-code runs the code of its pages"
	@echo "make install     only install, into .venv; the targets above install what they need"
	@echo "make wheels      only download, into wheels/, for a machine without network (docs/howto/install_elsewhere.md)"
	@echo "make clean       remove caches and build products; make distclean also removes .venv"
	@echo "With another Python: make PYTHON=python3.12 ..."

install: $(ALL)

wheels: $(INSTALLER)
	@echo "==> Downloading sagips_kit and all that it needs into wheels/; the first time this takes some minutes"
	@$(PIP) wheel $(PINNED) --wheel-dir wheels pip editables hatchling ".[$(EXTRAS)]"
	@echo "==> $$(ls wheels | wc -l) packages, $$(du -sh wheels | cut -f 1), are in wheels/"

demo: $(DEMO)
	@$(RUN) notebooks/demo.py

notebooks: $(ALL)
	@$(RUN) notebooks/execute.py $(ARGS)

test: $(ALL)
	@$(RUN) -m pytest $(PARALLEL) $(ARGS)

test-quick: $(ALL)
	@$(RUN) -m pytest $(PARALLEL) -m "not slow and not scheduler" $(ARGS)

test-gpu: $(ALL)
	@$(RUN) -m pytest tests/test_device.py tests/test_capture.py tests/test_exchange.py $(ARGS)
	@$(RUN) benchmarks/gpu.py --seconds 120 --out build/gpu.json

lint: $(ALL)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/numpydoc lint $$(git ls-files "sagips_kit/*.py")
	@$(BIN)/basedpyright --level error

format: $(ALL)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Warnings are errors, also those about links from page to page.
docs: $(DOCS)
	@$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs build/docs
	@echo "==> The documentation is in build/docs: open build/docs/index.html"

docs-links: $(DOCS)
	@$(BIN)/python -m sphinx -W --keep-going --quiet -b linkcheck docs build/docs-links

docs-code: $(ALL)
	@$(RUN) docs/run_code.py

clean:
	@rm -rf docs/generated build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .ipython
	@find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean
	@rm -rf .venv

$(DEMO): pyproject.toml $(INSTALLER)
	@echo "==> Installing sagips_kit and what the demo needs into .venv; the first time this takes some minutes"
	@$(PIP) install $(PINNED) --editable ".[mpi,dayabay,notebooks]"
	@touch $@

$(ALL): $(DEMO)
	@echo "==> Installing what tests and checks need"
	@$(PIP) install $(PINNED) --editable ".[$(EXTRAS)]"
	@touch $@

$(DOCS): $(DEMO)
	@echo "==> Installing what the documentation needs"
	@$(PIP) install $(PINNED) --editable ".[docs]"
	@touch $@

# Old releases of pip, such as that of Python 3.11.2, may search for hours where a recent one needs seconds.
$(INSTALLER): constraints.txt .ci/install.py | $(BIN)/python
	@echo "==> Installing pip into .venv"
	@$(PIP) install $(PINNED) pip
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) was not found. Choose another Python, 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "sagips_kit needs Python 3.11 or newer, and $(PYTHON) is older. Choose another: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@echo "==> Creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot create environments. On Debian and Ubuntu type: sudo apt install" \
	  "$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; \
	  echo "No environment could be written into .venv: is this folder writable, and is there space?" >&2; exit 1; }
