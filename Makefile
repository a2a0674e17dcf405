# make demo   sets up what it needs, runs an inference out of memory, records it, explains it
# make test   sets up what it needs, and runs all tests
#
# PYTHON=...  the Python to make the environment with (3.11 or later for the torch named here)
# TORCH=...   the torch to record; any CUDA build from 2.0 on
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.15.0

BIN   := $(VENV)/bin
PIP   := $(BIN)/pip --disable-pip-version-check --quiet
READY := $(VENV)/.ready

# With a GPU, torch comes with NVIDIA's libraries, several GB of them. Without one the emulated devices stand in for
# those, and torch itself is enough.
CUDA := $(shell test -e /dev/nvidiactl && echo yes)

.PHONY: demo test lint check-versions bench clean

$(READY): pyproject.toml examples/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("oomdoctor: this needs Python 3.11 or later; name one: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -e '.[dev]' -r examples/requirements.txt
ifeq ($(CUDA),yes)
	$(PIP) install '$(TORCH)'
else
	$(PIP) install filelock 'typing-extensions>=4.13' 'setuptools>=77' sympy networkx jinja2 fsspec
	$(PIP) install --no-deps '$(TORCH)'
endif
	$(PIP) install --no-deps accelerate==1.15.0  # depends on torch, and would bring NVIDIA's libraries
	touch $@

ENDED = echo "(the program ended with exit status $$?)"

# The program is expected to end with an error here: it runs out of memory.
demo: $(READY)
	rm -rf demo-run
ifeq ($(CUDA),yes)
	$(BIN)/oomdoctor trace -o demo-run -- $(BIN)/python examples/llama_generate.py --gib 16 || $(ENDED)
else
	$(BIN)/oomdoctor rehearse --gpus 2 --memory 10GiB -o demo-run -- $(BIN)/python examples/llama_generate.py || $(ENDED)
endif
	@echo
	$(BIN)/oomdoctor explain demo-run

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadgroup tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The emulated device, and programs on it, under other releases of torch: make check-versions TORCHES="2.3.1 2.13.0"
TORCHES ?= 2.3.1 2.6.0 2.9.1 2.11.0 2.12.0 2.13.0 2.14.0
check-versions: $(READY)
	for version in $(TORCHES); do \
	  test -x $(VENV)-torch-$$version/bin/python || $(BIN)/python -m venv $(VENV)-torch-$$version; \
	  $(VENV)-torch-$$version/bin/pip --quiet install filelock typing-extensions setuptools sympy networkx jinja2 \
	    fsspec 'numpy<2' && \
	  $(VENV)-torch-$$version/bin/pip --quiet install --no-deps torch===$$version || exit; \
	done
	OOMDOCTOR_TEST_PYTHONS=$$(for v in $(TORCHES); do printf '%s/bin/python:' $(abspath $(VENV))-torch-$$v; done) \
	  $(BIN)/python -m pytest -n auto --dist loadgroup tests/emulator tests/allocator/reference

bench: $(READY)
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit; done

clean:
	rm -rf $(VENV) $(VENV)-torch-* demo-run
