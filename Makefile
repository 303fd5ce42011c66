# The lab, the tests and the checks; `nordmesh --help` lists the commands that work on a stack.
# Everything runs in .venv, which `env` makes from requirements.lock and lab/requirements.lock.
STACK ?= local
PYTHON := .venv/bin/python
COMPILE := .venv/bin/uv pip compile --quiet --no-header --generate-hashes --python-version 3.11
SCRIPTS := components/scripts/*.sh components/host/files/usr/local/lib/nordmesh/*.sh \
	components/preflight/*.sh lab/*.sh tests/bench/*.sh \
	tests/engine/*.sh .ci/run ci/*.sh cli/drift/*.sh

.PHONY: help up down status test test-long check check-python format golden bench soak mutate deps env
.DEFAULT_GOAL := help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "STACK=$(STACK) is the lab's stack; \`nordmesh --help\` lists the commands for every stack."

up: env ## make the lab and run `pulumi up` on it; a second run does only what is missing
	@$(PYTHON) -m lab up --stack $(STACK)

down: env ## take the lab down; keeps the cache of built artifacts
	@$(PYTHON) -m lab down --stack $(STACK)

status: env ## show nodes, mesh and the measured canary split
	@$(PYTHON) -m lab status --stack $(STACK)

test: check ## every test: check, then the engine and live tests side by side
	@$(PYTHON) -m lab build --stack $(STACK)
	$(PYTHON) -m tests.lanes

test-long: soak mutate ## the tests that take hours: interrupted scripts, cut connections, planted faults, alerts
	@$(PYTHON) -m lab build --stack $(STACK)
	$(PYTHON) -m tests.lanes long

check: env ## formatting, types, layers, shell scripts and unit tests, in about six minutes
	@$(PYTHON) -m lab packages
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .
	.venv/bin/lint-imports
	.venv/bin/shellcheck --external-sources $(SCRIPTS)
	$(PYTHON) -m pytest -q -n auto tests/unit lab/tests

check-python: env ## unit tests of what users run, with another Python: PYTHON_VERSION=3.13
	$(PYTHON) -m tests.pythons $(PYTHON_VERSION)

format: env ## format the Python code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

golden: env ## write the golden files anew, for review in the diff
	UPDATE_GOLDEN=1 $(PYTHON) -m pytest -q $$(grep -rlE "support.golden import .*check" tests/unit)

bench: env ## times of `pulumi up`, beside the same steps done by hand; ONLY=planes or node; BEFORE=revision: beside that one
	$(PYTHON) -m tests.bench $(if $(ONLY),--only "$(ONLY)") $(if $(BEFORE),--before "$(BEFORE)")

soak: env ## scripts interrupted at each command (SHARD=1/1), then builds cut at moments: SEEDS=30, FIRST=1
	$(PYTHON) -m tests.kills --shard $(or $(SHARD),1/1)
	$(PYTHON) -m tests.soak --seeds $(or $(SEEDS),30) --first $(or $(FIRST),1)

mutate: env ## plant faults, and show how many `make check` catches: AREA=, COUNT=20, SEED=1, RESULTS=
	$(PYTHON) -m tests.mutate $(if $(AREA),--area $(AREA)) --count $(or $(COUNT),20) \
		--seed $(or $(SEED),1) $(if $(RESULTS),--results "$(RESULTS)") $(MUTATE_OPTIONS)

deps: env ## pin what pyproject.toml and lab/pyproject.toml ask for, with checksums, in their locks
	$(COMPILE) --group dev --output-file requirements.lock pyproject.toml
	$(COMPILE) --constraint requirements.lock --output-file lab/requirements.lock lab/pyproject.toml

env:
	@lab/bootstrap.sh
