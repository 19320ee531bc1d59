# What a newcomer and the build machine run. Needs only Python 3.11 or newer; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.privface-installed
export OMP_NUM_THREADS ?= 2
# processes that tests run in; each computes with one thread
WORKERS ?= 2

.PHONY: install demo test test-all lint docs clean

install: $(INSTALLED)

# repeated only when pyproject.toml changes
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "privface needs Python 3.11 or newer, this is %d.%d. Try: make PYTHON=python3.11" % v[:2])'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/privface demo --out demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers $(WORKERS)
	$(BIN)/lint-imports

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# what a change can break; .ci/run calls it
test: lint
	$(PYTEST) -m "not long"

# and what takes long: Ray, the browser, jobs killed and taken up again
test-all: lint
	$(PYTEST)

clean:
	rm -rf demo site build dist *.egg-info .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find privface tests experiments -type d -name __pycache__ -prune -exec rm -rf {} +
