# make demo   set up .venv and compile resnet50 and BERT to TensorRT
# make test   set up .venv and run every check and test
# make test-full  the same with the tests marked slow
# make test-matrix  releases of PyTorch, TensorRT-RTX and Python against each other; goes on where it ended; hours
# make fuzz   search for faults with inputs made at random; hours
# make native rebuild the C++ path of the runtime where its sources changed
# make nits   format and lint fixes
# make docs   the documentation as a site, in build/site
# make dist   sdist and wheels of the work tree in dist/, checked and tried in fresh environments
# make release  the same of the last commit, for an upload: RELEASING.md

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-full test-matrix fuzz nits check types style docs dist release native clean

demo: $(STAMP)
	$(BIN)/python -m examples.demo

test: check native
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-full: check native
	ENGINE_TEST_FULL=1 $(BIN)/python -m pytest -n 2 --dist worksteal
	$(BIN)/python -m tests.model_table --jobs 2 --results build/models.jsonl --compare

test-matrix: $(STAMP)
	$(BIN)/python -m pip install -q -e ".[matrix]" --no-build-isolation
	$(BIN)/python -m tests.matrix

fuzz: native
	$(BIN)/python -m tests.fuzz

# Types take a core for about a minute: everything else is checked beside them.
check: $(STAMP)
	$(MAKE) --no-print-directory -j 2 -O types style

types:
	$(BIN)/mypy

style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/engine rules check
	$(BIN)/engine rules fmt --check rules
	$(BIN)/engine rules lint --strict

nits: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/engine rules fmt rules

docs: $(STAMP)
	$(BIN)/python -m pip install -q -e ".[docs]" --no-build-isolation
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(STAMP)
	$(BIN)/python -m pip install -q -e ".[release]" --no-build-isolation
	$(BIN)/python -m tests.packaging.release --draft

release: $(STAMP)
	$(BIN)/python -m pip install -q -e ".[release]" --no-build-isolation
	$(BIN)/python -m tests.packaging.release

# torch goes first and by version: a later release would bring gigabytes of CUDA that no test needs.
$(STAMP): pyproject.toml setup.py requirements-test.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q -r requirements-test.txt
	$(BIN)/python -m pip install -q "setuptools>=77"
	$(BIN)/python -m pip install -q --no-build-isolation -e .
	touch $@

# The C++ path of the runtime, again when its sources change; without a compiler it is left out.
native: $(STAMP)
	$(BIN)/python setup.py -q build_ext --inplace

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	rm -f engine/runtime/*.so engine/runtime/native.json
