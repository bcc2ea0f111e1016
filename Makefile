# `make demo` and `make test`; `make test-all` adds the tests that take minutes each. All make the environment first.
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all parity faults bench assets clean

demo: $(VENV)/installed
	$(BIN)/alignzoo compare sft dpo ppo grpo rlaif-grpo --task shop --task sort --task safe \
		--seeds 3 --budget tokens=80000 --prompts 320 --jobs 2

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

# Also those that train until something is learnt, or make and use whole packages: minutes each.
test-all: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile

# The tests that compare two computations of one number, with the instruction sets of other processors.
parity: $(VENV)/installed
	$(BIN)/python -m tests.instruction_sets -n 2

# Thousands of generated faults; the tests do the first three hundred.
faults: $(VENV)/installed
	$(BIN)/python -m tests.faults --cases 2000
	$(BIN)/python -m tests.faults.recipe_kills --kills 100

bench: $(VENV)/installed
	$(BIN)/python benchmarks/official.py

assets: $(VENV)/installed
	$(BIN)/python -m alignzoo_tiny.make

$(VENV)/installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .benchmarks
