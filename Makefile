# `make demo` and `make test` need nothing before them but Python 3.11+ (PYTHON=python3.12 chooses another).
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV ?= .venv
READY := $(VENV)/.ready-$(VERSION)
BIN := $(VENV)/bin
TORCH_READY := .venv-torch/.ready-$(VERSION)
WORKDIR ?= runs/demo
TEST_WORKERS ?= 2

.PHONY: env demo test test-slow test-torch bench lint format clean

env: $(READY)

demo: $(READY)
	$(BIN)/python -m ddrnet_jax.main --config configs/demo.py --workdir $(WORKDIR)
	$(BIN)/python -m ddrnet_jax.main --config configs/demo.py --workdir $(WORKDIR) --mode predict \
		--checkpoint $(WORKDIR) --output $(WORKDIR)/predictions

test: $(READY)
	$(BIN)/pytest -m "not slow" -n $(TEST_WORKERS) --dist worksteal

test-slow: $(READY)
	$(BIN)/pytest -m "slow and not as_users" -n $(TEST_WORKERS) --dist worksteal
	XLA_FLAGS= $(BIN)/pytest -m as_users -n $(TEST_WORKERS) --dist worksteal

# Against PyTorch itself, in an environment of its own: `make test` needs none of it.
test-torch: $(TORCH_READY)
	.venv-torch/bin/pytest tests/pytorch

# Latency and FPS of the three networks on this machine, about ten minutes on 2 cores.
bench: $(READY)
	$(BIN)/python -m ddrnet_jax.main --mode benchmark --engines onnxruntime

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* .cache

# An environment made by another Python version is replaced. Python compiles what is imported, a small part of it all.
$(READY): EXTRAS := dev
$(TORCH_READY): EXTRAS := dev,torch
$(READY) $(TORCH_READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, found %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -e ".[$(EXTRAS)]"
	@touch $@
