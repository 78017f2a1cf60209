# Everything there is to do, for people and for CI. `make` alone says what.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup up demo test check unit chaos bench lock lock-federated doctor clean

help: ## say what there is to do
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

# The virtual environment is made anew whenever the locked requirements change.
$(STAMP): requirements/bootstrap.txt requirements/dev.txt requirements/federated.txt
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile --require-hashes -r requirements/federated.txt
	@touch $(STAMP)
	@echo "set up."

setup: $(STAMP) ## make the virtual environment

up: $(STAMP) ## serve everything until Ctrl-C
	@exec $(BIN)/python manage.py up

demo: $(STAMP) ## run one real job of every family, print the results, stop again
	@exec $(BIN)/python manage.py demo

doctor: $(STAMP) ## say in plain words what is wrong
	@exec $(BIN)/python manage.py doctor

test: $(STAMP) check unit chaos ## all checks and all tests

check: $(STAMP) ## format, lint, types, walls between the rooms, schema
	@echo "== ruff"; $(BIN)/ruff format --check . && $(BIN)/ruff check .
	@echo "== mypy"; $(BIN)/mypy .
	@echo "== import-linter"; $(BIN)/lint-imports

unit: $(STAMP) ## every test but those that kill processes
	@echo "== tests"; $(BIN)/coverage erase
	@$(BIN)/python -m tests.suite "not chaos"
	@$(BIN)/coverage combine -q; $(BIN)/coverage report --fail-under=85 --skip-covered --sort=cover

chaos: $(STAMP) ## the tests that kill real processes
	@echo "== chaos"; $(BIN)/python -m tests.suite chaos

bench: $(STAMP) ## measure what is claimed about speed
	@exec $(BIN)/python -m benchmarks

lock: $(STAMP) ## resolve the requirements anew
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  pyproject.toml -o requirements/runtime.txt --upgrade
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra embedded --extra dev pyproject.toml -o requirements/dev.txt --upgrade

lock-federated: $(STAMP) ## resolve the extra for federated learning anew, after lock
	@$(BIN)/python requirements/lock_federated.py

clean: ## remove what was set up here, data included
	rm -rf $(VENV) .data .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
