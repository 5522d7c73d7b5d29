# Each of these works from a clean clone with Python 3.11 or later, make and git:
#
#   make demo     real work on the daemon: order, dependencies, kill -9 and adoption, in under a minute
#   make test     the tests; ARGS="-k order -x" are passed to pytest
#   make check    format, lint, types, import contracts, freshness of generated files
#   make bench    the benchmarks; an error when a target is missed (benchmarks/README.md)
#   make crashtest   kill the daemon, and fail its disk, at over a thousand points of a workload (docs/reliability.md)
#   make agents-real   real Claude Code, Codex, OpenCode and aider under opusd; installs about 1 GB (docs/agents.md)
#   make format   what `make check` would ask for, as far as a program can do it
#   make ci       everything that CI runs
#
# PYTHON=python3.12 chooses another Python; each has its own virtual environment.

PYTHON ?= python3
ARGS ?=
VENV := .venv$(if $(filter python3,$(PYTHON)),,-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
# Programs that write checked-in files; with --check they only say whether those are fresh.
GENERATORS := $(sort $(wildcard docs/generate*.py))

.DELETE_ON_ERROR:
.PHONY: help demo test check bench crashtest agents-real format generate ci clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

# ------------------------------------------------------------------------- virtual environments, from nothing

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "opusd needs Python 3.11 or later: $(PYTHON) was not found" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("opusd needs Python 3.11 or later; $(PYTHON) is %d.%d: try make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) can't make virtual environments: on Debian, apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.run $(VENV)/.test $(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.$(EXTRA)'
	@touch $@

$(VENV)/.test: EXTRA := [test]
$(VENV)/.dev: EXTRA := [dev]

# ----------------------------------------------------------------------------------------------------- targets

# The demo runs some of the tests as real work, hence their dependencies.
demo: $(VENV)/.test
	$(BIN)/python examples/demo.py $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@for program in $(GENERATORS); do echo "$$program --check"; $(BIN)/python "$$program" --check || exit 1; done

bench: $(VENV)/.run
	$(BIN)/python benchmarks/run.py $(ARGS)

# CI runs a part of it among the tests. It needs strace.
crashtest: $(VENV)/.test
	$(BIN)/python -m tests.crash $(ARGS)

# Not part of CI: it needs npm, and the registries when it is first run.
agents-real: $(VENV)/.test
	$(BIN)/python -m tests.agents_real $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

generate: $(VENV)/.run
	@for program in $(GENERATORS); do echo "$$program"; $(BIN)/python "$$program" || exit 1; done

ci:
	.ci/run

clean:
	rm -rf .venv .venv-* .ci/logs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
