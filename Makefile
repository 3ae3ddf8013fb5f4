# Everything happens in the project's own .venv; the first target that needs it makes it.
#   make PYTHON=/path/to/python3        another interpreter (3.11 or newer)
#   make TORCH='torch==2.12.0'          another torch than the one in constraints.txt (anything pip understands)
#   make test WORKERS=8                 more test processes

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
PYTHON ?=
TORCH ?= $(shell grep '^torch==' constraints.txt)
WORKERS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
# One thread a process: two busy OpenMP pools on two cores make a step many times slower, not faster.
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest -q -n $(WORKERS) --dist loadfile

.PHONY: help setup quickstart test test-full lint format clean

help: ## this list
	@echo "foveal: train vision-language models that look before they reason"
	@echo
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@sed -n 's/^#   /  /p' Makefile

setup: $(STAMP) ## make .venv with pinned packages (once; again when pyproject.toml or constraints.txt change)

# A usable interpreter is new enough and can make virtual environments; the first one that is wins.
$(STAMP): pyproject.toml constraints.txt
	@found=; seen=; \
	for candidate in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14 python); do \
	  version=$$("$$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    if "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then found=$$candidate; break; fi; \
	    seen="$$seen $$candidate ($$version, without venv: install its venv package)"; \
	  else seen="$$seen $$candidate ($$version, too old)"; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "foveal needs Python 3.11 or newer with venv; found:$${seen:- none}." >&2; \
	  echo "Install one, or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "[1/4] $(VENV) with $$found ($$version)"; \
	"$$found" -m venv $(VENV)
	@echo "[2/4] $(TORCH) (the largest download; minutes on a slow line)"
	@$(PIP) install $(TORCH)
	@echo "[3/4] the other packages, pinned in constraints.txt"
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@$(PIP) install -c $(VENV)/constraints.txt setuptools -e '.[dev]'
	@echo "[4/4] check"
	@$(BIN)/python -c 'import foveal, torch, transformers as t; \
	  print(f"      foveal {foveal.__version__}, torch {torch.__version__}, transformers {t.__version__}")'
	@touch $@
	@echo "Ready: $(BIN)/foveal --help"

quickstart: setup ## train GRPO, CPPO and PAPO on this machine and write runs/quickstart/report.html
	@$(BIN)/foveal quickstart

lint: setup ## ruff and mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

test: lint ## lint, then all tests that are not slow
	@$(PYTEST) -m "not slow"

# 5 is pytest's "no tests collected", which is no failure when nothing is marked slow.
test-full: setup ## the slow tests
	@$(PYTEST) -m slow || { code=$$?; [ $$code -eq 5 ]; }

format: setup ## put imports and layout in order
	@$(BIN)/ruff check --select I --fix
	@$(BIN)/ruff format

clean: ## remove .venv, caches and build folders; runs/ stays
	@rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
