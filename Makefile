# Needs Python 3.10 or newer and make; everything else goes into .venv.
#   make demo    see a dead Ray cluster's tasks (DEMO_ARGS=--once: compare, print, exit)
#   make test    all tests, brokers included;  make test-fast: those that need a minute
#   make brokers the real servers that tests and benchmarks start: Kafka's jars, and Debian's packages as root
# 3.11.7 comes last: Hypothesis trips over a bug of that CPython now and then (gh-106905)
PYTHONS := python3.12 python3.13 python3.10 $(wildcard $(PYENV_ROOT)/versions/3.12.*/bin/python) python3 python3.11
PYTHON ?= $(firstword $(shell for p in $(PYTHONS); do "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo "$$p"; done))
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_ARGS ?=
BENCH_ARGS ?=

.PHONY: demo test test-fast brokers lint types docs bench clean

$(VENV)/.installed: pyproject.toml uv.lock
	$(if $(PYTHON),,$(error no Python 3.10 or newer on PATH; name one: make PYTHON=/path/to/python3))
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv sync --quiet --frozen --active --all-extras --all-groups
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python demo/demo.py $(DEMO_ARGS)

brokers:
	sh tests/brokers/fetch.sh

test: $(VENV)/.installed brokers
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=
	$(BIN)/coverage report --skip-covered --fail-under=90

test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

bench: $(VENV)/.installed
	$(BIN)/python -m bench $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build dist
