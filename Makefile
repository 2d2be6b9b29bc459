# Everything a person needs: `make demo`, `make test`. The rest is for those who build Backtrack.
.DEFAULT_GOAL := help
.PHONY: help setup engine demo up test check lab bench soak pins clean
BIN := .venv/bin

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: .venv/.ready ## make .venv with the pinned dependencies

.venv/.ready: requirements.txt pyproject.toml setup.sh
	@sh setup.sh

engine: setup ## compile the engines if they were changed since (half a minute, where there is a C compiler)
	@$(BIN)/python -m service.compile
	@$(BIN)/python -m lab.compile

demo: engine ## set up, run everything on this machine, replay it and verify it; stays up until Ctrl-C
	@$(BIN)/backtrack demo

up: engine ## web, workers and an embedded Redis on this machine
	@$(BIN)/backtrack up

test: engine ## set up and run all tests
	@$(BIN)/python -m pytest

check: setup ## lint, format, types, import contract
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

lab: engine ## open JupyterLab on the notebooks
	@$(BIN)/backtrack lab

bench: engine ## measure
	@$(BIN)/python -m tests.benchmarks all

soak: engine ## the long proofs: 10,000 random pairs of rulebook and log through both engines; 100 rounds of chaos; 50 kills of delivery; a million broken requests
	@$(BIN)/python -m pytest --soak -s tests/lab/test_sets.py tests/chaos tests/service/test_kills.py tests/service/test_fuzz.py

pins: ## renew requirements.txt from pyproject.toml (needs uv)
	@uv pip compile pyproject.toml --all-extras --generate-hashes --universal --no-annotate --no-header -q -o requirements.txt

clean: ## remove the environment and everything that runs have left
	@rm -rf .venv var build dist service/_native lab/_native .pytest_cache .mypy_cache .ruff_cache
