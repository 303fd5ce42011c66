# Everything runs in .venv, which `env` makes from requirements.lock.
STACK ?= local
PYTHON := .venv/bin/python
SCRIPTS := components/scripts/*.sh lab/*.sh tests/bench/*.sh .ci/run

.PHONY: help up down status test check format golden bench lock review env
.DEFAULT_GOAL := help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "STACK=$(STACK) is the stack that up, down, status and review work on."

up: env ## make the lab and run `pulumi up` on it; a second run does only what is missing
	@$(PYTHON) -m lab up --stack $(STACK)

down: env ## take the lab down; keeps the cache of built artifacts
	@$(PYTHON) -m lab down --stack $(STACK)

status: env ## show nodes, mesh and the measured canary split
	@$(PYTHON) -m lab status --stack $(STACK)

review: env ## print what `pulumi up` would do, and what the rules object to, in Markdown
	@command -v pulumi >/dev/null || . ./.lab/env; $(PYTHON) -m stacks.review --stack $(STACK) --policy-pack policy

test: check ## every test: check, then the engine's and the live ones
	@$(PYTHON) -m lab build --stack $(STACK)
	$(PYTHON) -m pytest -v --durations=10 tests/engine tests/live

check: env ## formatting, types, shell scripts and unit tests, in under a minute
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .
	.venv/bin/shellcheck --external-sources $(SCRIPTS)
	$(PYTHON) -m pytest -q tests/unit

format: env ## format the Python code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

golden: env ## write the golden files anew, for review in the diff
	UPDATE_GOLDEN=1 $(PYTHON) -m pytest -q tests/unit/test_manifests.py tests/unit/test_review.py

bench: env ## times of `pulumi up`, beside the same steps done by hand
	$(PYTHON) -m tests.bench

lock: env ## record upstream's published checksums in stacks/artifacts.lock.json
	$(PYTHON) -m stacks.lock

env:
	@lab/bootstrap.sh
