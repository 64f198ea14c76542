# `make demo` and `make test` need Python >= 3.11 and make, nothing else: they make .venv and install into it.

PYTHON ?= python3
SEED ?= 0
NAME ?= demo

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: help demo evaluate-pretrained test clean

help:
	@echo "make demo   learn to drive in some twelve minutes: random driving, a world model, imagination, a score"
	@echo "            (another seed: make demo SEED=1 NAME=second)"
	@echo "make evaluate-pretrained"
	@echo "            drive the 100 report tracks with the run that comes with the code, in a few minutes"
	@echo "make test   check and test the code"
	@echo "make clean  delete .venv and caches; data/ and artifacts/ stay"

demo: .venv/installed-video
	$(BIN)/dreamer run --preset demo --video --data $(NAME) --run $(NAME) --seed $(SEED)

# In a copy of its weights: the evaluation that came with them stays as it was, to compare with.
evaluate-pretrained: .venv/installed-video
	mkdir -p artifacts/pretrained-again
	cp -R artifacts/pretrained/world artifacts/pretrained/policy artifacts/pretrained-again/
	$(BIN)/dreamer evaluate --run pretrained-again --tracks 100 --video

# Two test processes of one thread each: on two cores, more would only wait for each other.
test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The extras of pyproject.toml, each installed once, and again when what is to be installed changes.
.venv/installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, '$(PYTHON)' is not: try make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
