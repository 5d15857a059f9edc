# FedCMI on Flower: everything a newcomer needs is one of these.
.DEFAULT_GOAL := help
SHELL := bash
BIN := .venv/bin

.PHONY: help install demo test check lint bench wheel lock clean

help: ## list what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

install: .venv/installed ## make .venv with the versions of requirements.lock: the project and its development tools

.venv/installed: pyproject.toml requirements.lock
	@if command -v uv >/dev/null; then uv venv --quiet --allow-existing --python '>=3.11,<3.14' .venv; \
	else python3 -m venv .venv; fi
	@echo "installing (about 5 GB, mostly torch) ..."
	@if command -v uv >/dev/null; then uv pip install --quiet --compile-bytecode --python .venv/bin/python -c requirements.lock -e '.[dev]'; \
	else $(BIN)/python -m pip install --quiet -c requirements.lock -e '.[dev]'; fi
	@touch $@

demo: .venv/installed ## train FedCMI+ on av-digits, 10 simulated nodes, 20 rounds (ARGS='--seed 1' for more options)
	@$(BIN)/fedcmi run $(ARGS)

# A file stays with one worker, since its tests share what they made; those that take minutes come first, in the order
# that tests/conftest.py gives, so that both workers end together. Doctests are part of `make check`.
test: .venv/installed ## run all tests, Ray and deployment included, two files at a time
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25 $(or $(ARGS),tests)

check: lint ## lint, types, import rules, docstrings, doctests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q fedcmi_flwr client_app server_app data_prep

lint: .venv/installed ## ruff, pydoclint, codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pydoclint --config=pyproject.toml fedcmi_flwr client_app server_app data_prep
	$(BIN)/codespell fedcmi_flwr client_app server_app data_prep tests README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md Makefile hatch_build.py .ci

bench: .venv/installed ## print speeds as ratios: training step, local epoch, reading, preparation, aggregation, network, simulation
	$(BIN)/python tests/benchmarks/step.py
	$(BIN)/python tests/benchmarks/epoch.py
	$(BIN)/python tests/benchmarks/features.py
	$(BIN)/python tests/benchmarks/bench_reading.py
	$(BIN)/python tests/benchmarks/bench_prep.py
	$(BIN)/python tests/benchmarks/prep_memory.py
	$(BIN)/python tests/benchmarks/aggregation.py
	$(BIN)/python tests/benchmarks/network.py
	$(BIN)/python tests/benchmarks/simulation.py

wheel: .venv/installed ## build dist/fedcmi_flwr-VERSION-py3-none-any.whl
	$(BIN)/python -m hatchling build -t wheel

lock: ## write requirements.lock anew, with the newest versions that pyproject.toml allows (needs uv)
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate --extra dev \
		pyproject.toml -o requirements.lock

clean: ## remove the virtual environment and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
