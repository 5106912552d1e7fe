# Crossfade: `make demo` shows a crossing, `make test` runs every test.
#
# Needs Python 3.11 or newer and make; everything else goes into .venv. Works as
# root and as an ordinary user.

.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# The first of these that is new enough; PYTHON=/path/to/python overrules the search.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help venv demo test chaos soak conformance fuzz reads bench lint format clean

help:
	@echo "make demo    the whole crossing on embedded PostgreSQL 16 -> 18, under load"
	@echo "make test    the whole test suite"
	@echo "make chaos   kills, stops, outages, bad networks: SEEDS=20, or SEED=7 to replay one"
	@echo "make soak    64 clients on 4 connections: MINUTES=10, SEED=7"
	@echo "make conformance   PostgreSQL judges 100,000 statements beside the proxy"
	@echo "make fuzz    hostile clients and servers, guided by coverage: SECONDS=60"
	@echo "make reads   own writes are found in 100,000 tries, at every phase: TRIES=n for others"
	@echo "make bench   direct, Crossfade and other poolers in one run"
	@echo "make lint    ruff and mypy"
	@echo "make venv    only the set-up, in $(VENV)"
	@echo "make clean   remove what the above left behind"

venv: $(STAMP)

# A venv whose Python is gone cannot be mended: it is made anew.
ifneq ($(wildcard $(STAMP)),)
$(shell $(BIN) -c '' 2>/dev/null || rm -rf $(VENV))
endif

# The stamp is written last: an interrupted set-up starts again. Debian without
# python3-venv has no ensurepip; there the pip of the system does the work.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; or run: make PYTHON=/path/to/python"; exit 1; }
	@rm -f $(STAMP)
	@if $(BIN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1; then \
		$(BIN) -m pip install --quiet -e '.[test]'; \
	else \
		rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && \
		{ $(PYTHON) -m pip --version >/dev/null 2>&1 || \
			{ echo "this Python has neither venv nor pip: install python3-venv"; exit 1; }; } && \
		$(PYTHON) -m pip --python $(BIN) install --quiet -e '.[test]'; \
	fi
	@touch $(STAMP)

demo: venv
	@$(BIN) -m proxy demo $(ARGS)

# One process per core, each with clusters of its own; a file stays in one, for what its tests share.
test: venv
	@$(BIN) -m pytest --ignore=tests/bench -n logical --maxprocesses=4 --dist=loadfile $(ARGS)

# SEEDS=n runs n campaigns on every kind of target, SEED=n replays one; each prints its seed, and leaves
# its trace in chaos-failures if it fails. ARGS='-k campaign' runs nothing else, MINUTES=15 ARGS='-k
# consistency' a reader of the mirror. A proxy dies DEATHS times in a switch, by default once at every
# line and by either signal.
chaos: export DEATHS ?= 10000
chaos: venv
	@$(BIN) -m pytest -s tests/chaos $(ARGS)

# 64 clients on 4 server connections for MINUTES; SEED=n makes the same choices again.
soak: venv
	@MINUTES=$(or $(MINUTES),10) $(BIN) -m pytest -s -o timeout=0 tests/soak $(ARGS)

# The corpus of classification nested twice, in many more combinations than `make test` tries.
conformance: venv
	@CONFORMANCE=1 $(BIN) -m pytest -s -o timeout=0 tests/integration/test_classification_oracle.py $(ARGS)

# Guided by coverage; what it finds it leaves in crash-* files.
fuzz: venv
	@$(BIN) -m pip install --quiet -e '.[fuzz]'
	@$(BIN) -m tests.fuzz.guided -max_total_time=$(or $(SECONDS),60) $(ARGS)

reads: export TRIES ?= 100000
reads: venv
	@$(BIN) -m pytest -s tests/integration/test_own_writes.py $(ARGS)

bench: venv
	@$(BIN) tests/bench/bench_proxy.py $(ARGS)

lint: venv
	@$(BIN) -m ruff check .
	@$(BIN) -m ruff format --check .
	@$(BIN) -m mypy

format: venv
	@$(BIN) -m ruff format .
	@$(BIN) -m ruff check --fix .

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis chaos-failures build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
