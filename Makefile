# `make build`, `make demo` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3.11
DIST ?= dist
VENV := .venv
comma := ,
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo test quick coverage test-slow test-tensorflow kills hostile reproduce-test check bench build wheel lock docs site web clean

help:
	@echo "setup demo test quick coverage test-slow test-tensorflow kills hostile reproduce-test check bench build wheel docs site web clean"

setup: $(READY)

# facenet-pytorch is an oracle of the tests; its own pins are older than everything here, and it works without them.
# LOCKED=1 takes only files whose hashes requirements.lock has; a torch of another index than PyPI is then refused.
FACENET := ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca
EXTRAS := train,export,ncnn-export,report,demo,dask,web,dev
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
ifdef LOCKED
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock $(PIP_ARGS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]' $(PIP_ARGS)
endif
	echo "facenet-pytorch==2.6.0 --hash=sha256:$(FACENET)" | $(BIN)/python -m pip install --quiet \
		--disable-pip-version-check --no-deps -r /dev/stdin
	@touch $@

# Needs uv.
lock:
	uv pip compile --quiet --generate-hashes --no-annotate --python-platform x86_64-manylinux_2_28 --python-version 3.11 \
		-c constraints.txt $(patsubst %,--extra %,$(subst $(comma), ,$(EXTRAS))) pyproject.toml \
		--custom-compile-command "make lock" --output-file requirements.lock

demo: $(READY)
	$(BIN)/edgeface demo

# A file's tests stay in one process, whose fixtures they share; the trained net and its files are made once for all.
# Three processes (of about 1 GB each) for two cores, because many tests wait: for a process, a server, a moment.
JOBS ?= 3
TOGETHER := -n $(JOBS) --dist loadfile --no-loadscope-reorder
test: $(READY) check
	$(BIN)/python scripts/bare_wheel.py
	$(BIN)/python -m pytest $(TOGETHER)

# Apart from `make test`, because counting lines costs about a third more processor time where Python computes.
coverage: $(READY)
	$(BIN)/python -m pytest $(TOGETHER) --cov --cov-report=term

# The tests of one root: make quick ROOT=runtime, devices, export or edgeface.
ROOT ?= runtime
quick: $(READY)
	$(BIN)/python -m pytest $(TOGETHER) tests/$(patsubst edgeface_edgeface,edgeface,edgeface_$(ROOT))

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# Broken and hostile documents against every command: about ten minutes on two cores.
hostile: $(READY)
	$(BIN)/python -m benchmarks.hostile $(ARGS)

# --converter keras: TensorFlow is 1.5 GB, so nothing else installs it.
test-tensorflow: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tensorflow]' $(PIP_ARGS)
	$(BIN)/python -m pytest -m 'slow or not slow' tests/edgeface_export/test_keras_twin.py

# 200 kills and 50 full disks; a second call goes on with kills.jsonl, and a finished one is only reported.
kills: $(READY)
	$(BIN)/python tests/kills

reproduce-test: $(READY)
	$(BIN)/python -m pytest reproduce/tests

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/cli_reference.py --check
	$(BIN)/python scripts/api_reference.py --check
	$(BIN)/python scripts/training_config_reference.py --check
	$(BIN)/python scripts/structure.py --check
	$(BIN)/python scripts/doc_links.py

bench: $(READY)
	$(BIN)/python -m benchmarks

# The wheel alone: a device needs no workstation.
wheel:
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(DIST) .

# Beside the wheel the bill of materials (CycloneDX) of what a bare install holds.
build: wheel
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 $(PIP_ARGS)
	$(PYTHON) -m venv --clear --without-pip build/bare
	$(PYTHON) -m pip --python build/bare/bin/python install --quiet --disable-pip-version-check -c constraints.txt \
		$$(ls -t $(DIST)/edgeface-*.whl | head -1) $(PIP_ARGS)
	build/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file $(DIST)/edgeface.cdx.json build/bare/bin/python

docs: $(READY)
	$(BIN)/python scripts/cli_reference.py
	$(BIN)/python scripts/api_reference.py
	$(BIN)/python scripts/training_config_reference.py

# The pages as a site with search, in an ignored folder; open site/index.html.
site: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]' $(PIP_ARGS)
	$(BIN)/python scripts/site.py

# The browser example's engine, from npm, into an ignored folder.
web:
	$(PYTHON) scripts/fetch_web.py

clean:
	rm -rf $(VENV) dist build site .mypy_cache .ruff_cache .pytest_cache .coverage*
