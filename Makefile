# The two commands are `make demo` and `make test`; both make what they need in .venv and leave the system alone.
.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-deps lint format clean venv

# Another interpreter than the first suitable one: make test PYTHON=python3.13
PYTHON ?=
export PYTHON

help:
	@echo 'make demo       real servers and clients on loopback, with a table of results'
	@echo 'make test       everything CI checks: lint, types, layers, the wheel, the tests'
	@echo 'make test-long  the tests that take minutes as well'
	@echo 'make test-deps  install the programs that tests run against (root, Debian)'
	@echo 'make lint       only the checks that read the code'
	@echo 'make format     rewrite the code as ruff lays it out'
	@echo 'make clean      remove .venv and everything built'
	@echo 'PYTHON=python3.13 chooses the interpreter; TESTS="tests/app -k socks" chooses the tests'

venv:
	@.ci/venv

demo: venv
	@.venv/bin/wraith demo

test: venv
	@.ci/check lint wheel tests

test-long: venv
	@.ci/check lint wheel long-tests

test-deps:
	@.ci/test-deps

lint: venv
	@.ci/check lint

format: venv
	@.venv/bin/ruff check --quiet --fix-only .
	@.venv/bin/ruff format .

clean:
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
