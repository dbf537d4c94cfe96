# Every target sets up what it needs. Installing takes Python 3.11 to 3.13 and a package index, nothing else;
# uv is used where it is there because it is faster.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup index app test test-faults test-cluster bench lint format chromium screenshots lock clean run-test-cluster

help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

setup: $(VENV)/.installed ## make the environment in .venv from the committed lock

# Variables given to make reach recipes through the environment: $$DIR is safe with spaces and quotes.
index: $(VENV)/.installed ## index the pictures of a folder: make index DIR=~/Pictures
	@test -n "$$DIR" || { echo 'Which folder? Say: make index DIR=~/Pictures' >&2; exit 2; }
	@$(BIN)/imago index $(if $(MODEL),--model "$$MODEL") -- "$$DIR"

app: $(VENV)/.installed ## open the browser app
	@$(BIN)/imago app

test: $(VENV)/.installed-dev ## run all tests
	$(BIN)/python -m pytest

test-faults: $(VENV)/.installed-dev ## the long form of the tests by killing, fuzzing and damaging (half an hour)
	IMAGO_KILLS=200 IMAGO_FUZZ=300 IMAGO_LIFE_EXAMPLES=300 $(BIN)/python -m pytest \
		tests/indexer/test_faults.py tests/indexer/test_life.py tests/indexer/test_hostile.py

# An environment of its own: Ray, Milvus and what they bring weigh over a gigabyte, and `make test` shall prove that
# everything else works without them.
test-cluster: ## the tests with Ray and Milvus, in .venv-cluster
	@$(MAKE) --no-print-directory VENV=.venv-cluster run-test-cluster

run-test-cluster: $(VENV)/.installed-cluster
	$(BIN)/python -m pytest tests/cluster

bench: $(VENV)/.installed-dev .venv-peers/.installed ## measure speed beside the peers, into docs/speed.md (two hours)
	$(BIN)/python -m benchmarks.speed

lint: $(VENV)/.installed-dev ## check style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## rewrite the code in the project's style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

chromium: ## install Debian's Chromium for the browser's tests, where there is none (needs root)
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium >/dev/null; }

screenshots: $(VENV)/.installed-dev ## make the README's pictures of the app (needs Chromium)
	$(BIN)/python docs/make_screenshots.py

lock: ## renew the locks from pyproject.toml (needs uv)
	@command -v uv >/dev/null || { echo 'make lock needs uv: pip install uv' >&2; exit 2; }
	uv pip compile pyproject.toml --group build --output-file requirements.lock $(LOCK_OPTIONS)
	uv pip compile pyproject.toml --extra train --extra explore --group build --group dev \
		--constraint requirements.lock --output-file requirements-dev.lock $(LOCK_OPTIONS)
	uv pip compile pyproject.toml --all-extras --group build --group dev --group cluster \
		--constraint requirements-dev.lock --output-file requirements-cluster.lock $(LOCK_OPTIONS)

LOCK_OPTIONS = --universal --python-version 3.11 --generate-hashes --no-annotate --upgrade --quiet \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

clean: ## remove the environment and the tools' caches
	rm -rf $(VENV) .venv-cluster .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: what people need to run Imago, what developers need besides, and that with Ray and Milvus.
define install
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else \
		"Imago needs Python 3.11, 3.12 or 3.13; this is " + sys.version.split()[0] + ". Say: make PYTHON=python3.12 ...")'
	@echo 'Setting up $(VENV) (once, a few minutes) ...' >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(installer) install --quiet $(compiled) --require-hashes -r $(1)
	@$(installer) install --quiet --no-deps --no-build-isolation --editable .
endef

# Without compiled bytecode every start would compile what it imports, wherever Python is told not to keep it.
installer = $(if $(UV),VIRTUAL_ENV=$(VENV) $(UV) pip,$(BIN)/python -m pip --disable-pip-version-check)
compiled = $(if $(UV),--compile-bytecode,--compile)

$(VENV)/.installed: requirements.lock pyproject.toml
	$(call install,requirements.lock)
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(call install,requirements-dev.lock)
	@touch $@

$(VENV)/.installed-cluster: requirements-cluster.lock pyproject.toml
	$(call install,requirements-cluster.lock)
	@touch $@

# PyTorch and ONNX Runtime never come into our own environment.
.venv-peers/.installed: benchmarks/peers/requirements.txt benchmarks/peers/install.py
	@$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python benchmarks/peers/install.py
	@touch $@
