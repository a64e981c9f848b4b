# Everything is installed into .venv; the machine needs only Python and make.
PYTHON ?= python3
# More arguments for pytest, for instance: make test ARGS="-k ring -x"
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/installed
# Versions that are known to work together, so that pip need not search for them.
CONSTRAINTS := constraints.txt
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python .ci/install.py .venv/install.log --constraint $(CONSTRAINTS)
# Keep profiles and logs of engines out of ~/.ipython, and use the mpiexec that belongs to the installed mpi4py.
RUN = IPYTHONDIR="$(CURDIR)/.ipython" PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python

.PHONY: help install demo test test-quick lint format clean distclean
.DEFAULT_GOAL := help

help:
	@echo "make demo        run the example notebooks on MPI engines of this machine and print the results"
	@echo "make test        run all tests"
	@echo "make test-quick  run all tests except slow ones and those of a batch scheduler"
	@echo "make lint        check style, format, types, docstrings and the order of imports"
	@echo "make format      correct style and format where that can be done automatically"
	@echo "make install     only install into .venv; the targets above do so if necessary"
	@echo "make clean       remove caches and build products; make distclean also removes .venv"
	@echo "With another Python: make PYTHON=python3.12 ..."

install: $(INSTALLED)

demo: $(INSTALLED)
	@$(RUN) notebooks/demo.py

test: $(INSTALLED)
	@$(RUN) -m pytest $(ARGS)

test-quick: $(INSTALLED)
	@$(RUN) -m pytest -m "not slow and not scheduler" $(ARGS)

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/numpydoc lint $$(git ls-files "sagips_kit/*.py")
	@$(BIN)/basedpyright --level error

format: $(INSTALLED)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .ipython
	@find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean
	@rm -rf .venv

# torch first and alone: packages that depend on it then accept the installed build.
$(INSTALLED): pyproject.toml constraints.txt .ci/install.py | $(BIN)/python
	@echo "==> Installing PyTorch into .venv"
	@$(PIP) torch
	@echo "==> Installing sagips_kit and its dependencies; the first time, this takes some minutes"
	@$(PIP) --editable ".[mpi,data,dayabay,explore,notebooks,test,lint]"
	@touch $@

# The pip of Python 3.11.2 takes hours to resolve what a newer one resolves in seconds.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) was not found. Choose another Python, 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "sagips_kit needs Python 3.11 or newer, and $(PYTHON) is older. Choose another: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@echo "==> Creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot create environments. On Debian and Ubuntu type: sudo apt install python3-venv" >&2; exit 1; }
	@echo "==> Installing pip into .venv"
	@$(PIP) pip || { rm -f $(BIN)/python; exit 1; }
