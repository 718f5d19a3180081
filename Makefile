# Everything a person does with this repository. Needs make and Python 3.11 or newer, no more.
#   make demo   runs a mixed set of jobs over the documents in flows/documents
#   make test   runs the test suite
#   make quick  runs the unit tests only
#   make chaos  runs random scenarios of faults, kills and restarts, and reads odd replies and files

PROVIDER ?= sandbox
RESULTS_DIR ?= demo-output
N ?= 100

# The exact versions that the suite last passed on, so that a release of tomorrow breaks neither
# the demo nor the tests. The price: they do not show what the newest releases do. To see that,
# in a fresh clone: make test CONSTRAINTS=
CONSTRAINTS ?= .ci/constraints.txt

VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check -qq
PIN := $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help demo test quick chaos lint types docs pages bench bench-full clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   a mixed job set against the local sandbox, no key needed"
	@echo "            PROVIDER=anthropic|openai|both does it for real, with the keys in .env"
	@echo "make test   the test suite"
	@echo "make quick  the unit tests, under a minute"
	@echo "make chaos  N=100 random scenarios of each kind: faults, kills, restarts, budgets;"
	@echo "            20,000 odd replies and 2,000 odd documents"
	@echo "make lint   style, formatting and import rules"
	@echo "make types  the type checker"
	@echo "make bench  this package against a plain SDK script and a floor; minutes"
	@echo "make bench-full  the same with a million jobs, 20 minutes; writes bench.md and bench.svg"
	@echo "make pages  writes into the documentation what it takes out of the code"
	@echo "make docs   the documentation, in build/docs; ends where a page is behind the code"
	@echo "make clean  removes what these have made, except $(VENV)"

demo: $(VENV)/.package
	@$(PYTHON) flows/demo.py --provider $(PROVIDER) --results-dir $(RESULTS_DIR)

test: $(VENV)/.tools
	@# Most tests wait for a server or a process, so four at a time use two cores well.
	@$(PYTHON) -m pytest --numprocesses 4 --dist worksteal $(PYTEST)

quick: $(VENV)/.tools
	@# Nobody answers there: what runs a flow lies in tests/flows.
	@PREFECT_API_URL=http://127.0.0.1:9/api $(PYTHON) -m pytest tests/unit \
	  --numprocesses 3 --dist worksteal $(PYTEST)

chaos: $(VENV)/.tools
	@BATCHATA_CHAOS=$(N) $(PYTHON) -m pytest tests/chaos/test_scenarios.py \
	  tests/chaos/test_money.py tests/chaos/test_kill.py --timeout 3600 \
	  --numprocesses 3 --dist worksteal $(PYTEST)
	@BATCHATA_ODD_ROWS=20000 BATCHATA_ODD_DOCUMENTS=2000 BATCHATA_LEASE_SCHEDULES=5000 $(PYTHON) -m pytest \
	  tests/unit/results/test_odd_rows.py tests/unit/content/test_odd_documents.py \
	  tests/unit/records/test_lease_schedules.py $(PYTEST)

lint: $(VENV)/.tools
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(VENV)/bin/lint-imports

types: $(VENV)/.tools
	@$(PYTHON) -m pyright

bench: $(VENV)/.tools
	@$(PYTHON) -m tests.bench.starts
	@$(PYTHON) -m tests.bench.starts --growth 200
	@$(PYTHON) -m tests.bench $(BENCH)

# Needs 20 minutes and 30 GB of room for a while. `python -m tests.bench.publish tests/bench` puts
# what it finds into the README and the documentation.
bench-full: $(VENV)/.tools
	@$(PYTHON) -m tests.bench --full --out tests/bench $(BENCH)

pages: $(VENV)/.tools
	@$(PYTHON) .docs/generated.py

docs: $(VENV)/.docs
	@$(PYTHON) .docs/generated.py --check
	@# A broken link or a name that is not documented ends it.
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --quiet --config-file .docs/mkdocs.yml

clean:
	rm -rf $(RESULTS_DIR) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.python:
	@python=; for name in $(BASE_PYTHON) python3 python python3.13 python3.12 python3.11; do \
	  if $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
	    >/dev/null 2>&1; then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11 to 3.14 is needed and was not found; install it, or name it:" >&2; \
	  echo "  make $(MAKECMDGOALS) BASE_PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	if [ ! -x $(PYTHON) ]; then \
	  echo "making $(VENV) with $$($$python --version)"; \
	  $$python -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "The environment could not be made. On Debian and Ubuntu the package python3-venv" \
	      "may be missing." >&2; exit 1; }; fi
	@# Reading a dependency group of pyproject.toml came with pip 25.1.
	@$(PIP) install --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.package: $(VENV)/.python pyproject.toml $(CONSTRAINTS)
	@echo "installing the package (about a minute, once)"
	@$(PIP) install $(PIN) --editable .
	@touch $@

$(VENV)/.tools: $(VENV)/.package
	@echo "installing the development tools (once)"
	@$(PIP) install $(PIN) --group dev
	@touch $@

$(VENV)/.docs: $(VENV)/.package
	@echo "installing what builds the documentation (once)"
	@$(PIP) install $(PIN) --group docs
	@touch $@
