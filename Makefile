# Everything runs in .venv, which `make setup` builds; each target below builds it when it is needed.
# Needs Python 3.11 or newer and make; no root, no Docker, no PostgreSQL of the system.

VENV ?= .venv
# The first Python that is new enough and can make a virtual environment; name another by make PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
# One more than there are cores: tests wait for servers and workers a sixth of their time.
JOBS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
FAST = -n $(JOBS) --dist worksteal -m "not slow"
# make test COVERAGE=1 measures, which makes the tests an eighth slower, and asks for 90 %, as CI does
COVERAGE ?=
DEMO_PROCESSES ?= 10000
DEMO_REPORT ?= build/demo-report.json
LONG_PROCESSES ?= 100000
# make soak SECONDS=600: how long bad input, simulated schedules and the campaign of faults go on, together
SECONDS ?= 600

BIN := $(VENV)/bin
# Two stages, since half of the set-up's time goes into what the fast tests do not need: the extras test, and dev.
STAMP := $(VENV)/.stamp
DEV_STAMP := $(VENV)/.stamp-dev
export PIP_ROOT_USER_ACTION := ignore
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Bytecode is written at the first import, else each of the processes that the tests start compiles everything again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup check docs screenshots format changelog test demo bench soak long audit lock clean

help:
	@echo "make setup   build $(VENV) with everything"
	@echo "make check   lint, format, types, import rules"
	@echo "make docs    the documentation as a site, in build/docs"
	@echo "make screenshots   pictures of console and load report in build/screenshots, for make docs; needs chromium"
	@echo "make test    the fast tests, in parallel; make test COVERAGE=1: and what they cover"
	@echo "make demo    $(DEMO_PROCESSES) processes under chaos, with a printed and a written report"
	@echo "make long    the slow tests, and $(LONG_PROCESSES) processes under load; make audit, make format, make changelog, make lock, make clean"
	@echo "make bench   the benchmarks; make soak: bad input, schedules and faults for $(SECONDS) s"

setup: $(DEV_STAMP)

INSTALL = "$(BIN)/python" -m pip install -qq --no-compile --constraint constraints.txt
define NEW_VENV
	test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with venv was found. Install one" \
		"(Debian: apt-get install python3-venv), or name it: make PYTHON=/path/to/python" >&2; exit 1; }; \
	"$(PYTHON)" -m venv --clear "$(VENV)" && $(INSTALL) hatchling editables
endef

# A stamp is written last, so an interrupted set-up starts again from nothing.
$(STAMP): pyproject.toml constraints.txt
	@$(NEW_VENV)
	$(INSTALL) --no-build-isolation --editable '.[test]'
	@touch "$(STAMP)"

# Adds to the first stage where that is there and up to date.
$(DEV_STAMP): pyproject.toml constraints.txt
	@[ "$(STAMP)" -nt pyproject.toml ] && [ "$(STAMP)" -nt constraints.txt ] || { rm -f "$(STAMP)"; $(NEW_VENV); }
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch "$(STAMP)" "$(DEV_STAMP)"

check: $(DEV_STAMP)
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/basedpyright" --pythonpath "$(BIN)/python"
	"$(BIN)/lint-imports"

# What the fragments in changelog.d come to; a release runs `towncrier build --version X.Y.Z`, which moves them into CHANGELOG.md.
changelog: $(DEV_STAMP)
	@"$(BIN)/towncrier" build --draft --version Unreleased

docs: $(DEV_STAMP)
	@"$(BIN)/python" -m sphinx -q -W --keep-going -c docs -d build/doctrees -b html . build/docs
	@echo "documentation: $(abspath build/docs/index.html)"

# Pictures of every page with real data, which `make docs` shows from then on. Needs chromium.
screenshots: $(STAMP)
	@"$(BIN)/python" -m tests.e2e.screenshots build/screenshots

format: $(DEV_STAMP)
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

# `coverage run -m pytest` rather than pytest-cov: the plugin under test is imported before any other plugin could measure it.
test: $(STAMP)
ifneq ($(COVERAGE),)
	"$(BIN)/coverage" erase
	"$(BIN)/coverage" run -m pytest $(FAST)
	"$(BIN)/coverage" combine --quiet
	"$(BIN)/coverage" report
else
	"$(BIN)/python" -m pytest $(FAST)
endif

demo: $(STAMP)
	@mkdir -p "$(dir $(DEMO_REPORT))" && rm -f "$(DEMO_REPORT)"
	@"$(BIN)/python" -m pytest tests/e2e/test_load.py --no-header -rN -n 2 --dist worksteal \
		--cb-load=$(DEMO_PROCESSES) --cb-report="$(DEMO_REPORT)"
	@test -s "$(DEMO_REPORT)" || { echo "make: the run left no report at $(DEMO_REPORT)" >&2; exit 1; }
	@echo "report: $(abspath $(DEMO_REPORT))"

bench: $(STAMP)
	"$(BIN)/python" -m benchmarks --json build/bench/figures.json

soak: $(STAMP)
	@"$(BIN)/python" -m tests.soak --seconds $(SECONDS)

long: $(DEV_STAMP)
	@mkdir -p build
	"$(BIN)/python" -m pytest -m slow
	"$(BIN)/python" -m pytest tests/e2e/test_load.py -n 2 --dist worksteal --cb-load=$(LONG_PROCESSES) --cb-report=build/long-report.json

audit:
	@PYTHON="$(PYTHON)" .ci/audit.sh

# Write constraints.txt anew from the newest versions that pyproject.toml admits.
lock:
	"$(PYTHON)" -m venv --clear build/lock
	build/lock/bin/python -m pip install -qq --editable '.[dev]' packaging
	build/lock/bin/python .ci/lock.py

clean:
	rm -rf "$(VENV)" build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
