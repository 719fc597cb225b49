# SPDX-License-Identifier: Apache-2.0
#
# Every verb of the project. As root on a bare Debian 12, `make demo` and `make test` do everything:
# they install what is missing, build, and run.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON := $(VENV)/bin/python
# Tools of the virtual environment come first, whatever python3 the caller's PATH begins with.
export PATH := $(CURDIR)/$(VENV)/bin:/usr/sbin:/usr/bin:/sbin:/bin:$(PATH)

# Behind `-n 3` (tests/conftest.py says why three), so that PYTEST_ARGS="-n 0 -s" has its way. A
# process that dies is a failed test, and the other one does the rest.
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

# What git tracks or would track, so that a new file is checked before it is committed.
FILES = git ls-files --cached --others --exclude-standard
C_SOURCES = $(wildcard $(shell $(FILES) '*.c' '*.h'))
SHELL_SCRIPTS = $(shell awk 'FNR == 1 && /^\#!.*[/ ](ba)?sh$$/ { print FILENAME }' \
	$(wildcard $(shell $(FILES) deploy .ci)))
EXPOSURE = systemd-analyze security --offline=true

.PHONY: help setup build demo test alerts bench dist deb lint format docs clean

help: ## list what can be made
	@printf 'Twinbeat: a pair of gateways that answers as one\n\n'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
		awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

setup: ## install what is missing from Debian and PyPI into .venv
	@deploy/setup

build: setup ## build the C extension; quick when nothing changed
	@deploy/build

demo: build ## let a real pair fail over in namespaces, and show what its client saw
	@deploy/lab/demo $(DEMO_ARGS)

test: build ## run every test (as root; without root it says what it left out)
	@$(PYTHON) -m pytest -n 3 --max-worker-restart 0 $(PYTEST_ARGS)

alerts: build ## fire every alert by its fault, before a real Prometheus (four minutes)
	@$(PYTHON) -m pytest -n 0 tests/lab/test_prometheus.py tests/lab/test_prometheus_kept.py \
		tests/lab/alerts_by_fault.py tests/lab/alerts_by_timers.py \
		tests/lab/alerts_by_absence.py tests/lab/alerts_by_stores.py $(PYTEST_ARGS)

bench: build ## measure against keepalived and FRR (BENCH_ARGS="--quick --json")
	@deploy/lab/bench $(BENCH_ARGS)

dist: build ## build the source distribution and the wheel into .build/dist
	@deploy/dist

deb: build ## build the Debian package in a clean root, into .build/debian (as root)
	@deploy/debian/build

lint: build ## check style, types, scripts, alert rules and the units
	ruff check
	ruff format --check
	mypy
	clang-format-14 --dry-run -Werror $(C_SOURCES)
	shellcheck $(SHELL_SCRIPTS)
	promtool check rules deploy/prometheus/alerts.yml
	promtool test rules deploy/prometheus/tests/*.yml
	$(EXPOSURE) --threshold=25 deploy/systemd/twinbeatd.service | tail -n 1
	$(EXPOSURE) --threshold=18 deploy/systemd/twinbeat-worker.service | tail -n 1
	$(EXPOSURE) --threshold=12 deploy/systemd/twinbeat-loader@.service | tail -n 1
	$(EXPOSURE) --threshold=15 deploy/systemd/twinbeat-weblog.service | tail -n 1

format: build docs ## bring Python, C and the tables of the documentation into shape
	ruff check --fix-only --quiet
	ruff format
	clang-format-14 -i $(C_SOURCES)

docs: build ## write into documentation and manual pages what the code knows better
	@$(PYTHON) deploy/docs/reference
	@$(PYTHON) deploy/man/write

clean: ## remove what the build and the tests made, keep .venv
	rm -rf .build .setup .mypy_cache .pytest_cache .ruff_cache .hypothesis deploy/lab/out
	find agent tests deploy -name __pycache__ -type d -prune -exec rm -rf {} +
