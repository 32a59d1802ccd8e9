# Each target sets itself up from nothing; a second run skips what is done.
.PHONY: setup demo test test-fast s3-server promtool e2e check bench lock clean
PYTHON := .venv/bin/python
# Every worker imports the whole stack: without bytecode each would compile it anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE

setup:
	@scripts/setup

demo: setup  ## a valley with known truth: lakes, snow, vegetation, compared
	@$(PYTHON) -m alpage.cli demo --folder demo

test: setup  ## all tests
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile --durations=15 -m "not cluster"

test-fast: setup  ## tests that take seconds
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile -m "not slow and not cluster"

s3-server:  ## a real S3 server for the tests and benchmarks that need one: Go builds it
	@scripts/s3_server.py --build

promtool:  ## what checks alerts and queries in the tests: from Debian's package of Prometheus
	@scripts/promtool

e2e: setup  ## the chart on the Kubernetes of KUBECONFIG, for real
	@$(PYTHON) scripts/check_chart.py
	@$(PYTHON) -m pytest -q -n 2 -m cluster --timeout 1200 --session-timeout 2700 --durations=0 tests/cluster

check: setup  ## format, lint, types, import directions
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache
	@$(PYTHON) scripts/check_chart.py

bench: setup  ## measured beside what a user would otherwise write
	@$(PYTHON) benchmarks/fused.py
	@$(PYTHON) benchmarks/late.py

lock: setup  ## resolve the dependencies anew
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.12 --all-extras --generate-hashes \
	  --no-header --no-emit-index-url --upgrade -o requirements.lock pyproject.toml
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.12 --extra kubernetes --extra gateway --generate-hashes \
	  --no-header --no-emit-index-url -c requirements.lock -o images/alpage/requirements.lock pyproject.toml
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-header --no-emit-index-url \
	  -c images/alpage/requirements.lock $$(sed -nE 's/^([a-z0-9._-]+)==.*/--no-emit-package \1/p' images/alpage/requirements.lock) \
	  -o images/notebook/requirements.lock images/notebook/requirements.in
	@cp $$($(PYTHON) -c 'import dask_kubernetes as it; print(it.__path__[0])')/operator/deployment/helm/*/crds/*.yaml helm/alpage/crds/

clean:
	@rm -rf .venv demo .pytest_cache .ruff_cache .mypy_cache
