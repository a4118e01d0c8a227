# The tasks of this project; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
STAMP := .venv/.stamp
PACKAGES := schemas validation pipelines jobs
DOCS := README.md docs/*.md
ALONE := ray or kill

.PHONY: help setup demo check test test-readers docs bench clean

help: ## list the tasks
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: $(STAMP) ## make or update .venv (nothing to do when it is up to date)

$(STAMP): pyproject.toml constraints.txt .python-version .ci/setup
	.ci/setup
	@touch $@

demo: $(STAMP) ## sample -> ingest -> encode -> texts -> build -> verify -> report, in ./demo
	rm -rf demo
	$(BIN)/wamloom sample demo/recordings --layout rlds --episodes 3
	$(BIN)/wamloom sample demo/recordings --layout lerobot_v3 --episodes 2 --seed 1
	$(BIN)/wamloom ingest demo/recordings --lake demo/lake
	$(BIN)/wamloom encode --lake demo/lake --encoder wavelet --set views.height_px=96 --set views.width_px=128
	$(BIN)/wamloom texts --lake demo/lake --encoder hashed --template fastwam
	$(BIN)/wamloom build --lake demo/lake --out demo/release --format lerobot_v3 webdataset parquet \
	    --set content=both --set encoder=wavelet
	$(BIN)/wamloom verify demo/lake
	$(BIN)/wamloom verify demo/release --lake demo/lake
	$(BIN)/wamloom report demo/lake --out demo/report.html
	@printf '%s\n' '' 'What was made, in ./demo:' \
	    '  recordings/   simulated recordings of two robots, in two source layouts' \
	    '  lake/         every episode, judged, with its video as it came, its latents and its texts' \
	    '  release/      LeRobot v3.0, WebDataset and Parquet of the same steps, with manifest.json' \
	    '  report.html   what is in the lake and what is wrong with it: open it in a browser' '' \
	    'Next, walk from a sample back to the recording it came from:' \
	    '  $(BIN)/wamloom show demo/release --sample 100'

check: $(STAMP) ## lint, format, types, import rules, docs, dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m cogapp --check -c -I docs $(DOCS)
	$(BIN)/deptry .

# Clusters and kills by the clock go by what else the machine does: their tests run one after the other, all others in two
# processes, each module in one of them, for its fixtures, and in the order of their names, the last of which are short.
# The second run takes place whatever became of the first, but for Ctrl-C.
test: check ## check, then every test; the slowest are listed
	trap "exit 130" INT; status=0; \
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not ($(ALONE))" || status=$$?; \
	$(BIN)/pytest -m "$(ALONE)" || status=$$?; \
	exit $$status

test-readers: $(STAMP) ## read what we write with other versions of LeRobot and with giga-datasets; downloads gigabytes
	$(BIN)/pytest tests/readers/check_readers.py

docs: $(STAMP) ## write the generated parts of the docs anew
	$(BIN)/python -m cogapp -r -c -I docs $(DOCS)

bench: $(STAMP) ## side-by-side measurements, by hand
	for file in benchmarks/bench_*.py; do $(BIN)/python -m "benchmarks.$$(basename "$$file" .py)"; done

clean: ## remove what tasks made, but not .venv
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(PACKAGES) tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
