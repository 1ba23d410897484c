# Every target works on a fresh machine: Python 3.11 and the package registries are enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install test lint demo reproduce bench clean
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,tables,video,datasets,descriptors,onnx,diffusers,faiss,train,lightning,slurm,dev]'
	touch $@

install: $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2

# The closed-form half of the paper and its real-data experiment, as one offline HTML page.
demo: $(STAMP)
	$(BIN)/memdiff reproduce --preset quick --out demo
	@echo "open demo/report.html"

reproduce: $(STAMP)
	$(BIN)/memdiff reproduce --preset paper --out reproduction

bench: $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[peers]'
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) demo reproduction build dist .pytest_cache .mypy_cache .ruff_cache
