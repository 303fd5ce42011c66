# Everything runs in .venv, which `env` makes from requirements.lock.
STACK ?= local
PYTHON := .venv/bin/python
# The lab's pulumi, backend and passphrase, for a stack of the lab and for no other.
LAB_ENV = eval "$$($(PYTHON) -m lab env --stack $(STACK))"
SCRIPTS := components/scripts/*.sh components/preflight/*.sh lab/*.sh tests/bench/*.sh \
	tests/engine/*.sh .ci/run ci/*.sh cli/drift/*.sh

.PHONY: help up down status dashboard test test-long check format golden bench soak mutate deps lock mirror review env preflight \
	canary-advance canary-abort egress-report access-report capacity-report workload-snippet \
	schema explain new-stack actionlint drift
.DEFAULT_GOAL := help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "STACK=$(STACK) is the stack that all of them work on."

up: env ## make the lab and run `pulumi up` on it; a second run does only what is missing
	@$(PYTHON) -m lab up --stack $(STACK)

down: env ## take the lab down; keeps the cache of built artifacts
	@$(PYTHON) -m lab down --stack $(STACK)

status: env ## show nodes, mesh and the measured canary split
	@$(PYTHON) -m lab status --stack $(STACK)

review: env ## print what `pulumi up` would do, and what the rules object to, in Markdown
	@$(LAB_ENV); exec $(PYTHON) -m cli.review \
		--stack $(STACK) --policy-pack policy

preflight: env ## measure a stack's nodes, and say what is against them; changes nothing
	@$(LAB_ENV); exec $(PYTHON) -m cli.preflight --stack $(STACK)

drift: env ## tell what hosts, cluster and mesh are that the stack file does not say; changes nothing
	@$(LAB_ENV); exec $(PYTHON) -m cli.drift --stack $(STACK)

dashboard: env ## open Prometheus, Grafana and Kiali of a stack, until Ctrl-C
	@$(LAB_ENV); exec $(PYTHON) -m cli.dashboard --stack $(STACK)

test: check ## every test: check, then the engine and live tests side by side
	@$(PYTHON) -m lab build --stack $(STACK)
	$(PYTHON) -m tests.lanes

test-long: soak mutate ## the tests that take hours: cut connections at seeded moments, planted faults

check: env ## formatting, types, layers, shell scripts and unit tests, in about two minutes
	@$(PYTHON) -m lab packages
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .
	.venv/bin/lint-imports
	.venv/bin/shellcheck --external-sources $(SCRIPTS)
	$(PYTHON) -m pytest -q -n auto tests/unit

format: env ## format the Python code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

golden: env ## write the golden files anew, for review in the diff
	UPDATE_GOLDEN=1 $(PYTHON) -m pytest -q tests/unit/test_manifests*.py tests/unit/test_review.py \
		tests/unit/test_drift.py tests/unit/test_kvm.py

bench: env ## times of `pulumi up`, beside the same steps done by hand
	$(PYTHON) -m tests.bench

soak: env ## builds whose SSH connections are cut at seeded moments: SEEDS=30, FIRST=1
	$(PYTHON) -m tests.soak --seeds $(or $(SEEDS),30) --first $(or $(FIRST),1)

mutate: env ## plant faults, and show how many `make check` catches: AREA=, COUNT=20, SEED=1, RESULTS=
	$(PYTHON) -m tests.mutate $(if $(AREA),--area $(AREA)) --count $(or $(COUNT),20) \
		--seed $(or $(SEED),1) $(if $(RESULTS),--results "$(RESULTS)") $(MUTATE_OPTIONS)

deps: env ## pin what pyproject.toml asks for, with checksums, in requirements.lock
	.venv/bin/uv pip compile --quiet --no-header --generate-hashes --python-version 3.11 \
		--group lab --group dev --output-file requirements.lock pyproject.toml

lock: env ## record upstream's published checksums in stacks/artifacts.lock.json
	$(PYTHON) -m cli.lock

mirror: env ## fill DIR=... and REGISTRY=... with what the stack's nodes download; ALL=1: any stack's
	@$(PYTHON) -m cli.mirror $(if $(ALL),--all,--stack $(STACK)) $(if $(DIR),--dir "$(DIR)") \
		$(if $(REGISTRY),--registry "$(REGISTRY)") $(MIRROR_OPTIONS)

schema: env ## write the stack files' JSON Schema anew from the models
	@$(PYTHON) -m config.schema

explain: env ## show the stack's settings in effect, and where each comes from
	@$(PYTHON) -m cli.explain $(STACK)

new-stack: env ## ask for nodes, show their host keys, and write a stack file
	@$(PYTHON) -m cli.new

actionlint: env ## check the GitHub workflows
	@ci/actionlint.sh

egress-report: env ## which hosts outside the cluster may be called, by whom and why
	@$(PYTHON) -m cli.report egress --stack $(STACK)

access-report: env ## who may call which service
	@$(PYTHON) -m cli.report access --stack $(STACK)

capacity-report: env ## what the proxies need, and what the nodes have
	@$(PYTHON) -m cli.report capacity --stack $(STACK)

workload-snippet: env ## the annotations of sidecars that their owners are to paste
	@$(PYTHON) -m cli.report workloads --stack $(STACK)

canary-advance: env ## write the next step of SERVICE's canary into the stack file, for a commit
	@$(PYTHON) -m cli.canary --stack $(STACK) advance $(SERVICE)

canary-abort: env ## take SERVICE's canary out of the way now: weight 0, written and applied
	@$(PYTHON) -m cli.canary --stack $(STACK) abort $(SERVICE)

env:
	@lab/bootstrap.sh
