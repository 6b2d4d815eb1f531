# Everything a newcomer, a developer and CI need. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test lint format bench gpu cubins docs fuzz soak lock audit sbom coverage clean

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/installed
# Two cores are the smallest machine the suite is written for.
WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
GPU_ARGS ?=
MINUTES ?= 10

help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## Create .venv with `enclave` and its tests; LOCKED=1: from hashes

# The stamp is written last, so a broken installation is tried again; a change of dependencies or
# entry points in pyproject.toml makes it stale.
$(STAMP): pyproject.toml .ci/install
	@.ci/install "$(PYTHON)" "$(VENV)"
	@touch $@

demo: install ## Real data through a coordinator and two workers, one killed on the way
	@$(VENV)/bin/enclave demo --output demo-output $(DEMO_ARGS)

test: install ## The whole test suite
	@$(VENV)/bin/pytest -q -n $(WORKERS) $(PYTEST_ARGS)

lint: install ## Style, formatting, types and import contracts
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check --quiet . || { $(VENV)/bin/ruff format --diff . ; exit 1; }
	@$(VENV)/bin/mypy --no-error-summary
	@$(VENV)/bin/lint-imports --no-logo

format: install ## Rewrite the code in the project's format
	@$(VENV)/bin/ruff check --fix --quiet .
	@$(VENV)/bin/ruff format --quiet .

cubins: install ## Compile the GPU kernels with the pinned compiler (90 MB), for every architecture
	@$(VENV)/bin/pip install --quiet --no-deps --require-hashes -r tests/gpu_aead/nvrtc.lock
	@$(VENV)/bin/python -m tests.gpu_aead.build_cubins

bench: install ## Sealed beside plaintext and what one would pick instead; to bench-output/
	@$(VENV)/bin/python -m tests.bench.main --output bench-output $(BENCH_ARGS)

gpu: install ## On a GPU: right first, then sanitized, then measured; GPU_ARGS=--dry-run tries it without
	@$(VENV)/bin/python -m tests.bench.gpu --output bench-output $(GPU_ARGS)

docs: install ## Redraw what docs/ shows of the code and the tests
	@$(VENV)/bin/python -m tests.architecture.diagram --write
	@$(VENV)/bin/python -m tests.attacks.write_table

fuzz: install ## Search MINUTES for inputs that break a parser or a party
	@$(VENV)/bin/python -m tests.fuzz.run --minutes $(MINUTES)

soak: install ## Every fault at random for an hour, and whether anything grows
	@$(VENV)/bin/python -m tests.faults.soak --minutes 60

coverage: install ## Branch coverage of what decides: sealing, wire, the coordinator's core, the executor
	@$(VENV)/bin/python -m coverage run --branch -m pytest -q -n 0 -m 'not scenario' tests/sealing \
	    tests/wire tests/coordinator tests/worker tests/properties tests/device tests/gpu_aead
	@for part in 'attestation/sealing/*' 'attestation/wire/*' 'coordinator/core/*' \
	    enclave_worker/executor.py; do \
	    $(VENV)/bin/python -m coverage report --skip-covered --fail-under=98 --include="$$part"; \
	done

lock: install ## Write requirements.lock anew
	@$(VENV)/bin/python -m tests.supply_chain.lock

audit: install ## Ask for known vulnerabilities in what is locked
	@$(VENV)/bin/python -m tests.supply_chain.audit

sbom: install ## Write the bill of materials, sbom.json
	@$(VENV)/bin/python -m cyclonedx_py environment --output-reproducible -o sbom.json $(VENV)/bin/python

clean: ## Remove what the other targets made
	@rm -rf $(VENV) build ./*.egg-info demo-output bench-output fuzz-output .bench .pytest_cache .mypy_cache \
	    .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
