# Two commands set up everything by themselves: `make demo` and `make test`.
.DEFAULT_GOAL := all
.PHONY: all setup demo test test-postgresql check lint types docs openapi wheels httpx2 verify-types fuzz fuzz-openapi audit format cover soak powercut simulate mutants mutants-rules bench dist lock run clean

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LOCK   := .ci/requirements.lock
STAMP  := $(VENV)/.installed
# The demo needs few of the packages, so it has an environment of its own, unless the whole one is there already.
DEMO_VENV  ?= .venv-demo
DEMO_LOCK  := .ci/demo.lock
DEMO_STAMP := $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_VENV)/.installed)
TESTS  ?= tests
# Tests that wait for processes and sockets leave the processor to others: one more at a time than there are cores.
# (Two more take 353 s instead of 368 s on two cores, and had a test with a real time-out fail in one run of four.)
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
SEED   ?= 1
KILLS  ?= 200
MINUTES ?= 10
SEEDS  ?= 20

all: check test

# --- set-up: a virtual environment from the lock, every hash checked ---

$(STAMP): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "sentinel_sync needs Python 3.11 or newer; name one with: make PYTHON=python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DEMO_VENV)/.installed: $(DEMO_LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "sentinel_sync needs Python 3.11 or newer; name one with: make demo PYTHON=python3.11" >&2; exit 1; }
	@echo "setting up the demo in $(DEMO_VENV): $$(grep -c '==' $(DEMO_LOCK)) packages, once"
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --python $(PYTHON) $(DEMO_VENV) && uv pip install --python $(DEMO_VENV) --require-hashes -r $(DEMO_LOCK); \
	else \
	  $(PYTHON) -m venv $(DEMO_VENV) \
	    && $(DEMO_VENV)/bin/python -m pip install --disable-pip-version-check --require-hashes -r $(DEMO_LOCK); \
	fi
	@touch $@

setup: $(STAMP)

# --- the main job, on a clean machine ---

demo: $(DEMO_STAMP)
	PYTHONPATH=$(CURDIR) $(dir $<)bin/python -m sentinel_sync demo

run: $(STAMP)
	$(BIN)/python -m sentinel_sync run

# --- checks ---

# Tests start the agent some hundred times over: let them find it compiled, whatever the environment says.
export PYTHONDONTWRITEBYTECODE =


test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

# The backend's tests once more, with its rows on a PostgreSQL server.
test-postgresql: $(STAMP)
	SENTINEL_TEST_DATABASE=postgresql $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/backend

check: lint types

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

# The documentation as a site, in build/site; a link that leads nowhere is an error.
docs: $(STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/zensical build --strict --clean

# The wire contract as OpenAPI, after the reference backend has changed; a test compares them.
openapi: $(STAMP)
	$(BIN)/python docs/openapi.py > docs/openapi.json

# How much of the public interface pyright knows the type of. Pyright is no dependency of ours: it brings a Node of its own.
verify-types: $(STAMP)
	$(PYTHON) -m venv $(VENV)/pyright && $(VENV)/pyright/bin/python -m pip install --quiet pyright
	rm -rf build/typed && mkdir -p build/typed && cp -r sentinel_sync build/typed/
	PYTHONPATH=build/typed:$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])') \
	  $(VENV)/pyright/bin/pyright --pythonpath $(abspath $(VENV))/pyright/bin/python --verifytypes sentinel_sync --ignoreexternal

# Whatever the reference backend and the console are asked, they answer as is documented. Schemathesis is no dependency.
fuzz-openapi: $(STAMP)
	$(PYTHON) -m venv $(VENV)/schemathesis && $(VENV)/schemathesis/bin/python -m pip install --quiet schemathesis
	$(BIN)/python -m tests.contract.openapi_fuzz $(VENV)/schemathesis/bin/schemathesis --seed $(SEED)

# Every reader of what comes from outside, at length.
fuzz: $(STAMP)
	SENTINEL_FUZZ=3000 $(BIN)/python -m pytest -n $(WORKERS) -o timeout=1800 tests/contract/test_hostile_input.py

# What is in it (CycloneDX, build/sbom.cdx.json), and what is known to be wrong with that. Neither tool is a dependency.
audit: $(STAMP)
	$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install --quiet cyclonedx-bom pip-audit
	mkdir -p build
	$(VENV)/audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  -o build/sbom.cdx.json $(BIN)/python
	$(VENV)/audit/bin/pip-audit --disable-pip --require-hashes -r $(LOCK)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# With a Python of 3.12 or newer: 3.11's trace tells of coroutines that end and never began, and what runs after one of them
# counts as not run (`make cover PYTHON=python3.13 VENV=.venv-3.13`).
cover: $(STAMP)
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist loadfile -o timeout=400 $(TESTS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered --sort=cover --show-missing

# --- longer things ---

soak: $(STAMP)
	$(BIN)/python -m tests.soak.kill_trips --kills $(KILLS) --seed $(SEED)
	$(BIN)/python -m tests.soak.kill_scenarios --kills $(KILLS) --seed $(SEED)
	$(BIN)/python -m tests.soak.kill_models --kills $(KILLS) --seed $(SEED)
	$(BIN)/python -m tests.soak.chaos --minutes $(MINUTES) --seed $(SEED)

# A kill, and a failing disk, at every call that changes the disk.
powercut: $(STAMP)
	SENTINEL_POWERCUT=all $(BIN)/python -m pytest -n $(WORKERS) tests/powercut tests/store/test_bit_flips.py

# The whole agent in virtual time on a bad network, dying at any instant; a seed that fails says how to replay it.
simulate: $(STAMP)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --first $(SEED)

# Dangerous changes that the simulation alone has to notice.
mutants: $(STAMP)
	$(BIN)/python -m tests.simulation.mutants

# Every small change of `rules/` that mutmut can think of, against the rules' own tests. It takes hours; mutmut is no
# dependency of ours. `mutmut results` in build/mutants names those that nobody notices.
mutants-rules: $(STAMP)
	$(PYTHON) -m venv $(VENV)/mutmut
	$(VENV)/mutmut/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(VENV)/mutmut/bin/python -m pip install --quiet --disable-pip-version-check mutmut
	rm -rf build/mutants && git clone --quiet . build/mutants
	cd build/mutants && CI=1 $(abspath $(VENV))/mutmut/bin/python -m mutmut run

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# Wheel and sdist, in dist/.
# What users install, on each Python at hand, with the newest and the oldest dependencies.
wheels: $(STAMP)
	.ci/wheels

# What fails with httpx's maintained successor in its place. Told, not enforced.
httpx2: $(STAMP)
	.ci/httpx2

dist: $(STAMP)
	$(BIN)/python -m hatchling build -d dist

# --- for whoever changes dependencies: needs the network ---

lock: $(STAMP)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --custom-compile-command "make lock" --extra all --group dev --output-file $(LOCK) pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --custom-compile-command "make lock" --extra cli --extra backend --extra video \
	  --constraint $(LOCK) --output-file $(DEMO_LOCK) pyproject.toml

clean:
	rm -rf $(VENV) $(DEMO_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
