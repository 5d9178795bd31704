# Nightmarket. `make help` lists what there is; SHOP=path/to/shop.yaml chooses the shop for all of it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup run up down status test soak lint docs docs-check lock backfill clean

VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
SHOP ?=
DATE ?=
FROM ?=
DAG ?=
FORCE ?=
ALL ?=
TESTS ?=
WORKERS ?= 2

# Every tool below reads the shop from here.
ifneq ($(strip $(SHOP)),)
export NIGHTMARKET_SHOP := $(abspath $(SHOP))
endif
# The tools of the environment come first, and Python writes what it says at once.
export PATH := $(abspath $(VENV))/bin:$(PATH)
export PYTHONUNBUFFERED := 1

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/' | expand -t 14
	@echo
	@echo "  SHOP=path/to/shop.yaml   another shop than shops/demo.yaml, for every command"
	@echo "  DATE=YYYY-MM-DD          the night (run), or the last one (backfill); FROM=YYYY-MM-DD the first"
	@echo "  DAG=nightly_retraining   another DAG than shop_ingestion (backfill)"
	@echo "  FORCE=1                  run although nothing has changed"
	@echo "  ALL=1                    forecasts and fraud screening too (run)"

setup: $(STAMP) ## make the environment in .venv

$(STAMP): requirements.txt pyproject.toml scripts/setup.sh
	@scripts/setup.sh $(VENV)

run: setup ## one full night on this machine, with a summary; leaves nothing running
	@$(PY) -m nightmarket.embedded run $(if $(DATE),--date $(DATE)) $(if $(FROM),--from $(FROM)) $(if $(FORCE),--force) $(if $(ALL),--all)

up: setup ## start Airflow, MLflow and the mailbox, and leave them running
	@$(PY) -m nightmarket.embedded up

down: setup ## stop them
	@$(PY) -m nightmarket.embedded down

status: setup ## what runs, and where its pages are
	@$(PY) -m nightmarket.embedded status

backfill: setup ## nights FROM to DATE through the running Airflow (`make up` first)
	@$(PY) -m nightmarket.embedded backfill $(if $(FROM),--from $(FROM)) $(if $(DATE),--date $(DATE)) $(if $(DAG),--dag $(DAG)) $(if $(FORCE),--force)

test: setup ## all tests but the long proofs; TESTS=tests/clean for some, WORKERS=1 for one at a time
	@$(PY) -m pytest -m "not soak" -n $(WORKERS) --dist loadfile $(TESTS)

soak: setup ## the long proofs: the whole chain, kills, whole published shops
	@$(PY) -m pytest -m soak $(TESTS)

lint: setup ## style, types, and what Airflow has deprecated
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff check dags plugins include/nightmarket/orchestration --select AIR3
	@$(VENV)/bin/mypy

docs: setup ## regenerate docs/DAGS.md, docs/DATASETS.md and docs/shop.schema.json
	@$(PY) -m nightmarket.docs

docs-check: setup ## fail where the generated documents are out of date
	@$(PY) -m nightmarket.docs --check

lock: setup ## compile requirements.in into requirements.txt
	@$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.10 --no-header requirements.in -o requirements.txt

clean: ## remove what nights and tools left (var/ and caches); keeps .venv
	@if [ -x $(PY) ]; then $(PY) -m nightmarket.embedded down; fi
	@rm -rf var artifacts spark-warehouse metastore_db derby.log .pytest_cache .mypy_cache .ruff_cache .hypothesis
