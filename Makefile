# The one door. `make up` and `make test` set everything up by themselves; `make help` lists the rest.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.maskserve-setup

# OpenMP threads that spin while they wait make two processes on the same cores many times slower: modeling/waiting.py
ifeq ($(origin OMP_WAIT_POLICY)$(origin GOMP_SPINCOUNT),undefinedundefined)
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 500
endif

.DEFAULT_GOAL := help
.PHONY: help setup up test bench bench-full lint format protos requirements clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo "e.g. make up DATA=path/to/labelme    serve models trained on your own photos"

setup: $(STAMP) ## a virtual environment in .venv with everything pinned

$(STAMP): requirements.txt pyproject.toml $(wildcard third_party/detectron2/*.py third_party/detectron2/*.toml)
	@echo "setup: Python packages into $(VENV) (the first time: about 3 GB to fetch, a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than Python 3.11; say make PYTHON=/path/to/python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt ./third_party/detectron2
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

up: setup ## train what is missing, then serve both arms (DATA=folder: on your own labelme photos)
	@exec $(BIN)/maskserve up $(if $(DATA),--data "$(DATA)") $(UP_FLAGS)

test: setup ## all tests, the real TorchServe included, in two processes: 14 minutes on two cores
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_FLAGS)

bench: setup ## everything beside its peers, in 6 to 18 minutes on two cores; writes docs/benchmarks.md
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --group bench
	@$(BIN)/python -m benchmarks.run $(BENCH_FLAGS)

bench-full: setup ## the same with more rounds, and how the cost grows; 23 minutes where bench takes 6
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --group bench
	@$(BIN)/python -m benchmarks.run --full $(BENCH_FLAGS)

lint: setup ## ruff, mypy, import-linter
	@mkdir -p .cache/namespace && ln -sfn ../.. .cache/namespace/maskserve
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy $(foreach p,cli client comparison gateway handlers imaging load modeling protos training,-p maskserve.$(p)) -p benchmarks
	@$(BIN)/lint-imports

format: setup ## ruff, in place
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

protos: setup ## regenerate the gRPC stubs
	@$(BIN)/python -m maskserve.protos.generate

requirements: setup ## compile the pins from pyproject.toml
	@$(BIN)/uv pip compile --quiet pyproject.toml --group dev --all-extras --universal --python-version 3.11 \
	  --no-emit-index-url --no-header --no-annotate --no-emit-package detectron2 -o requirements.txt

clean: ## remove what make made (not your runs, data and archives)
	@rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
