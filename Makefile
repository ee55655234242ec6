# Two commands do everything: `make demo` and `make test`. Both create .venv first, and are safe to repeat.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test docs chaos lint types check clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## the package and everything the tests need, in .venv

$(VENV)/.installed: pyproject.toml
	@echo "creating $(VENV) and installing segtrans (PyTorch is large: this takes some minutes the first time)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "segtrans needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@# These libraries only serve to compare results; what they ask for is old or unused by the attacks compared.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchattacks==3.5.1 cospgd==0.1.3 adv-lib==0.2.8
	@touch $@

demo: setup ## the main job on embedded photographs and models, offline
	$(BIN)/segtrans demo --out runs/demo

test: setup ## all tests
	$(BIN)/python -m pytest -n auto

docs: setup ## the documents as a site, in site/, offline
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

chaos: setup ## runs killed at 200 moments instead of the 20 of `make test`
	SEGTRANS_KILLS=200 $(BIN)/python -m pytest tests/chaos

lint: setup ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## pyright, strict
	$(BIN)/pyright

check: lint types test ## everything that CI runs

clean: ## remove what was made
	rm -rf $(VENV) runs site .pytest_cache .ruff_cache
