# Two commands: `make demo` shows it working, `make test` proves it. `make help` lists the rest.
# Everything is installed into .venv, from requirements/*.lock with hashes, and only when a lock changed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := kafka spark pandas polars redis postgres delta mlflow otel plots demo dev

UV_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python
# Tests wait for processes more than they compute: a lane a core, whole files to each, since what a
# file starts is shared within it.
PYTEST     = $(BIN)/python -m pytest -n logical --dist loadfile
# One resolution for all: the tools constrain all.lock, all.lock constrains the lock of each extra.
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command "make lock" $(LOCK_FLAGS)

# A complete environment serves every target; only `make demo` is content with less.
COMPLETE   := $(VENV)/.stamp-all
FOR_DEMO   := $(if $(wildcard $(COMPLETE)),$(COMPLETE),$(VENV)/.stamp-demo)
FAST_LANES := $(wildcard tests/house tests/unit tests/conformance)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: setup demo demo-spark test check bench soak jars lint lock clean help postgres

setup: $(COMPLETE) $(VENV)/.stamp-project ## install every extra into .venv

demo: $(FOR_DEMO) $(VENV)/.stamp-project ## card transactions become feature vectors, end to end
	$(BIN)/hof demo cards

demo-spark: jars $(VENV)/.stamp-project ## the same over Kafka and Spark: two servers, two groups, every answer proven
	$(BIN)/hof demo spark

test: setup postgres jars lint ## everything but soak: lint, types, import contracts, the whole suite
	$(PYTEST) -m "not soak"

check: setup postgres lint ## the fast lane: lint, types, contracts, house + unit + conformance tests
	HYPOTHESIS_PROFILE=fast $(PYTEST) -m "not soak and not kafka" $(FAST_LANES)

soak: setup jars ## the long repetitions, and property tests with many more examples
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -m soak --timeout 3600
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -m "not soak" --timeout 3600 $(wildcard tests/property)

bench: setup jars ## five JSON lines: serving beside a bare echo, replay beside the naive query, the join, Kafka, Spark
	$(BIN)/python benchmarks/bench_exchange.py --json
	$(BIN)/python benchmarks/bench_replay.py --json
	$(BIN)/python benchmarks/bench_join.py --json
	$(BIN)/python benchmarks/bench_kafka.py --json
	$(BIN)/python benchmarks/bench_spark.py --json

# Tests wait for no download. Debian's root may add what is missing; others are told what it is.
jars: setup ## jars into the user's cache, checked: Kafka's broker for tests, Spark's connector to Kafka
	$(BIN)/python -m hofflight.jars || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -q \
		&& apt-get install -yq --no-install-recommends default-jdk-headless maven \
		&& $(BIN)/python -m hofflight.jars; }

lint: setup ## ruff, mypy and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: $(VENV)/.stamp-tools ## regenerate requirements/*.lock; newest versions with LOCK_FLAGS=--upgrade
	$(UV_COMPILE) requirements/tools.in -o requirements/tools.lock
	$(UV_COMPILE) pyproject.toml --all-extras -c requirements/tools.lock -o requirements/all.lock
	$(UV_COMPILE) pyproject.toml -c requirements/all.lock -o requirements/core.lock
	for extra in $(EXTRAS); do \
		$(UV_COMPILE) pyproject.toml --extra $$extra -c requirements/all.lock \
			-o requirements/$$extra.lock || exit 1; \
	done

clean: ## remove .venv, caches and build products
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
	@echo "Another Python (3.11 or newer): make clean, then PYTHON=python3.12 make setup"

# --- how .venv comes to be -------------------------------------------------------------------------

# Debian's python3 has no ensurepip before python3-venv is there; root may add it.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer, please: PYTHON=python3.12 make ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear $(VENV) || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -q \
		&& apt-get install -yq --no-install-recommends python3-venv \
		&& $(PYTHON) -m venv --clear $(VENV); }

# The tests of a shared registry start a PostgreSQL server of Debian's; root may add it.
postgres:
	@command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -q \
		&& apt-get install -yq --no-install-recommends postgresql; } \
	|| { echo "PostgreSQL's server is missing, for the tests: apt-get install postgresql"; exit 1; }

$(VENV)/.stamp-tools: requirements/tools.lock | $(BIN)/pip
	$(BIN)/pip install --quiet --require-hashes -r $<
	@touch $@

$(COMPLETE): requirements/all.lock $(VENV)/.stamp-tools
	$(UV_INSTALL) --require-hashes -r $<
	@touch $@

$(VENV)/.stamp-demo: requirements/core.lock requirements/demo.lock $(VENV)/.stamp-tools
	$(UV_INSTALL) --require-hashes -r requirements/core.lock -r requirements/demo.lock
	@touch $@

$(VENV)/.stamp-project: pyproject.toml $(VENV)/.stamp-tools
	$(UV_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@
