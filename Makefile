# The tasks of this project; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
STAMP := .venv/.stamp
PACKAGES := schemas validation pipelines jobs
DOCS := README.md docs/*.md

.PHONY: help setup demo check test docs bench clean

help: ## list the tasks
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: $(STAMP) ## make or update .venv (nothing to do when it is up to date)

$(STAMP): pyproject.toml constraints.txt .python-version .ci/setup
	.ci/setup
	@touch $@

demo: $(STAMP) ## sample -> ingest -> encode -> build -> verify -> report, in ./demo
	rm -rf demo
	$(BIN)/wamloom sample demo/recordings --layout rlds --episodes 2
	$(BIN)/wamloom ingest demo/recordings --lake demo/lake
	$(BIN)/wamloom encode --lake demo/lake --encoder wavelet
	$(BIN)/wamloom build --lake demo/lake --out demo/release --format lerobot_v3
	$(BIN)/wamloom verify demo/release
	$(BIN)/wamloom report demo/lake --out demo/report.html
	@echo "open demo/report.html"

check: $(STAMP) ## lint, format, types, import rules, docs, dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m cogapp --check -c -I docs $(DOCS)
	$(BIN)/deptry .

test: check ## check, then every test; the slowest are listed
	$(BIN)/pytest

docs: $(STAMP) ## write the generated parts of the docs anew
	$(BIN)/python -m cogapp -r -c -I docs $(DOCS)

bench: $(STAMP) ## side-by-side measurements, by hand
	for file in benchmarks/bench_*.py; do $(BIN)/python -m "benchmarks.$$(basename "$$file" .py)"; done

clean: ## remove what tasks made, but not .venv
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(PACKAGES) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
