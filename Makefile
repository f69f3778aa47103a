# Every target does its own set-up; nothing is needed beforehand but make and Python 3.11 or newer.
# Arguments for the command: make demo TS_ARGS="--seconds 30"

PYTHON ?= python3
BIN := .venv/bin
SOURCES := models state streams
TS_ARGS ?=
PYTEST_ARGS ?= -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test lint types slow check bench faults mutants simulation lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## .venv with everything that running needs; quick when nothing changed
	@$(PYTHON) deploy/set_up.py

setup-dev:  ## the same, and what tests, linters and benchmarks need
	@$(PYTHON) deploy/set_up.py --dev

demo: setup  ## broker, Valkey, a worker, live credits; Ctrl-C ends it
	@$(BIN)/touchstream demo $(TS_ARGS)

test: setup-dev  ## every test but the slow ones, on two cores (PYTEST_ARGS= for one)
	@$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

lint: setup-dev  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup-dev  ## mypy, strict
	@$(BIN)/mypy --strict $(SOURCES)

slow: setup-dev  ## real Apache Kafka (needs Java and Maven) and Debian's redis-server
	@$(BIN)/python -m pytest -m slow

check: lint types test slow faults  ## all of the above, and a tenth of the fault suite

bench: setup-dev  ## Touchstream beside its peers; writes bench/RESULTS.md
	@$(BIN)/python bench/run.py $(TS_ARGS)

faults: setup-dev  ## a tenth of the fault suite, as a table; needs libfaketime too (TS_ARGS="--full --out FILE")
	@$(BIN)/python -m tests.faults.run $(TS_ARGS)

mutants: setup-dev  ## break one rule at a time: each must turn a test red (TS_ARGS="--only NAME")
	@$(BIN)/python -m tests.mutants.run $(TS_ARGS)

simulation: setup-dev  ## 10,000 seeded worlds of trouble in one process, and what came up in them
	@$(BIN)/python -m tests.simulation.run --seeds 10000 --jobs 2 $(TS_ARGS)

# The embedded broker is a wheel of this very tree, so it has no place in a lock file with hashes.
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--custom-compile-command "make lock" --no-emit-package touchstream-embedded $(LOCK_ARGS)

lock: setup  ## resolve the dependencies anew (LOCK_ARGS=--upgrade for newer ones)
	@$(COMPILE) requirements-uv.in -o requirements-uv.lock
	@$(COMPILE) requirements-build.in -o requirements-build.lock
	@$(COMPILE) pyproject.toml --extra demo -o requirements.lock
	@$(COMPILE) pyproject.toml --extra demo --group dev -c requirements.lock -o requirements-dev.lock

clean:  ## remove .venv, caches and build products
	rm -rf .venv .cache build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
