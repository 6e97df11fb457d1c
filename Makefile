# `make demo` and `make test` need nothing before them but Python 3.11+ (PYTHON=python3.12 chooses another).
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
READY := .venv/.ready-$(VERSION)
BIN := .venv/bin
WORKDIR ?= runs/demo

.PHONY: demo test test-slow lint format clean

demo: $(READY)
	$(BIN)/python -m ddrnet_jax.main --config configs/demo.py --workdir $(WORKDIR)
	$(BIN)/python -m ddrnet_jax.main --config configs/demo.py --workdir $(WORKDIR) --mode predict \
		--checkpoint $(WORKDIR) --output $(WORKDIR)/predictions

test: $(READY)
	$(BIN)/pytest -m "not slow"

test-slow: $(READY)
	$(BIN)/pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .cache

# A .venv made by another Python version is replaced.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, found %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@
