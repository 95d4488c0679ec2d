# make demo   install, then the demo cohort from scans to a tested classifier and a report
# make test   install, then the tests, without the slow ones
# make test-all  all tests
# make bench  every benchmark; ARGS=--quick tries them out
# make gpu-check  compares a GPU with the CPU and measures it; docs/gpu.md
# make lint   style, types and who may import whom
# make hashes brings every package as a wheel into wheels/ and writes constraints-hashes.txt, once, with internet
# make hashed installs from wheels/ alone, each compared with constraints-hashes.txt; needs no internet

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
WHEELS ?= wheels
HASHES ?= constraints-hashes.txt
WANTED ?= "$$(grep '^torch==' constraints.txt)" '.[demo,dev]' "$$(sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml)"

.PHONY: .venv demo test test-all lint bench gpu-check hashes hashed

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
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'not slow'

test-all: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	for question in features skull_strip training protocol memory startup scheduling intervals joint synthetic fairness fairness_remedies federation hypotheses missingness profile watermark; do \
		$(BIN)/python -m benchmarks.bench_$$question $(ARGS) || exit 1; \
	done

# Installs nothing: a machine that reaches nothing has no .venv, and its own Python takes what it lacks from PYTHONPATH.
gpu-check:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu_check $(ARGS)

# Wheels differ between systems, and those of torch between its builds: the file is for machines like this one, and stays
# here. Look at it, keep it where the wheels are not, and a wheel that was exchanged since is refused.
hashes:
	$(PYTHON) -m pip wheel --quiet --wheel-dir $(WHEELS) --constraint constraints.txt $(WANTED)
	rm -f $(WHEELS)/hypermm_pipeline-*.whl
	for wheel in $(WHEELS)/*.whl; do \
		package=$$(basename "$$wheel" | sed 's/-/==/; s/-.*//'); \
		echo "$$package $$($(PYTHON) -m pip hash "$$wheel" | tail -n 1)" || exit 1; \
	done > $(HASHES)

hashed:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-index --find-links $(WHEELS) --require-hashes --requirement $(HASHES)
	$(BIN)/python -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
	touch $(INSTALLED)
