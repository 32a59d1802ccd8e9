# Each target sets itself up from nothing; a second run skips what is done.
.PHONY: setup demo test test-fast check bench lock clean
PYTHON := .venv/bin/python
# Every worker imports the whole stack: without bytecode each would compile it anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE

setup:
	@scripts/setup

demo: setup  ## a valley with known truth: lakes, snow, vegetation, compared
	@$(PYTHON) -m alpage.cli demo --folder demo

test: setup  ## all tests
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile --durations=15

test-fast: setup  ## tests that take seconds
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile -m "not slow"

check: setup  ## format, lint, types, import directions
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache

bench: setup  ## measured beside what a user would otherwise write
	@$(PYTHON) benchmarks/fused.py

lock: setup  ## resolve the dependencies anew
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.12 --all-extras --generate-hashes \
	  --no-header --no-emit-index-url --upgrade -o requirements.lock pyproject.toml

clean:
	@rm -rf .venv demo .pytest_cache .ruff_cache .mypy_cache
