# make demo   install, then the demo cohort from scans to a tested classifier and a report
# make test   install, then all tests
# make bench  every benchmark; ARGS=--quick tries them out
# make lint   style, types and who may import whom

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: .venv demo test lint bench

.venv: $(INSTALLED)

# torch first and by its exact version: a range would let pip bring a newer one with several GB of CUDA packages.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python run_pipeline.py --stages preprocess,pretrain,classify,report

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	for question in features skull_strip training protocol memory startup scheduling profile; do \
		$(BIN)/python -m benchmarks.bench_$$question $(ARGS) || exit 1; \
	done
