# Every target makes the environment it needs in .venv, from Python 3.11+, pip, git and make alone.
# An environment is installed again only when pyproject.toml changed, so a second call starts at once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Targets share .venv, and two pips must not write into it at the same time.
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
IMAGE ?= apim-auth-proxy
PYTEST_ARGS ?=
MUTANTS ?= proxy.policy.* proxy.identity.* proxy.relay.*
# Tests start the command some hundred times; compiled once is enough, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=
BENCH_ARGS ?=
MINUTES ?= 10
SOAK_ARGS ?=
SEED ?=
EXCHANGES ?= 100000
SECONDS := 60
TARGETS ?=
ARGS ?=
WORDS ?=
LOCK_ARGS ?=
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Environments

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or later is needed; this is $$($(PYTHON) --version). Name another: make PYTHON=python3.13" >&2; exit 1; }
# Debian keeps ensurepip in python3-venv; where that is missing, the pip outside installs the one inside.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	    || { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --quiet --python $@ install pip; } \
	    || { echo "Could not make $(VENV): install python3-venv, or pip 22.3 or later." >&2; rm -rf $(VENV); exit 1; }
# Dependency groups (PEP 735) are read by pip 25.1 and later.
	@$(PIP) install --quiet --upgrade 'pip>=25.1' || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "Installing the proxy into $(VENV)" >&2
	@$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "Installing linters and tests into $(VENV)" >&2
	@$(PIP) install --quiet --group dev
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	@echo "Installing what the tests need into $(VENV)" >&2
	@$(PIP) install --quiet --group test
	@touch $@

$(VENV)/.deploy: $(VENV)/.test
	@echo "Installing what validates Kubernetes manifests into $(VENV)" >&2
	@$(PIP) install --quiet --group deploy
	@touch $@

$(VENV)/.supply: $(VENV)/.runtime
	@echo "Installing what looks after dependencies into $(VENV)" >&2
	@$(PIP) install --quiet --group supply
	@touch $@

$(VENV)/.docs: $(VENV)/.test
	@echo "Installing what builds the documentation site into $(VENV)" >&2
	@$(PIP) install --quiet --group docs
	@touch $@

$(VENV)/.mutants: $(VENV)/.test
	@echo "Installing what makes mutants into $(VENV)" >&2
	@$(PIP) install --quiet --group mutants
	@touch $@

$(VENV)/.fuzz: $(VENV)/.test
	@echo "Installing the fuzzing engine into $(VENV)" >&2
	@$(PIP) install --quiet --only-binary :all: --group fuzz \
	    || { echo "atheris has no package for this Python or platform: fuzz with CPython 3.11 to 3.13 on Linux, x86-64." >&2; exit 1; }
	@touch $@

.PHONY: venv
venv: $(VENV)/.dev $(VENV)/.test ## Make the development environment in .venv

# The product

.PHONY: demo
demo: $(VENV)/.runtime ## Play the whole flow on this machine: identity platform, gateway, API, proxy, client
	@$(BIN)/apim-auth-proxy demo

# Checks

.PHONY: test-tools
test-tools: ## Install the programs that tests run: curl, node, nginx, … (apt-get as root; otherwise names them)
	@.ci/install-test-tools

.PHONY: test
test: $(VENV)/.test test-tools ## Run the tests
	@.ci/run-tests $(CURDIR)/$(BIN)/python $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## Check style, format and spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell

.PHONY: soak
soak: $(VENV)/.dev ## Mixed traffic for MINUTES=10, 5 GB each way, and hunts for memory that grows slowly: SOAK_ARGS="--seed 1"
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(SOAK_ARGS)
	@$(BIN)/python -m tests.soak.bulk
	@$(BIN)/python -m tests.soak.growth

.PHONY: simulate
simulate: $(VENV)/.dev $(VENV)/.test ## Play EXCHANGES=100000 in a simulated world, drawn from SEED=1; a failure is made short and told
	@$(BIN)/python -m tests.simulation --exchanges $(EXCHANGES) $(if $(SEED),--seed $(SEED))

.PHONY: types
types: $(VENV)/.dev ## Check types
	@$(BIN)/mypy

.PHONY: check
check: lint types test ## All that a change has to pass

.PHONY: cover
cover: $(VENV)/.test test-tools ## Run the tests and show which lines and branches they miss
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

.PHONY: matrix
matrix: $(VENV)/.test test-tools ## Run tests in other surroundings: loops, limits, disks, locales, interpreters: WORDS="no-ipv6 python-3.13"
	@.ci/install-test-tools matrix
	@$(BIN)/python -m tests.matrix $(WORDS)

.PHONY: flaky
flaky: $(VENV)/.test test-tools ## Repeat the tests for MINUTES=10 in random orders under load, and name those that ever differ: PYTEST_ARGS=tests/wire
	@$(BIN)/python -m tests.flaky --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(PYTEST_ARGS)

.PHONY: mutations
mutations: $(VENV)/.test ## Break each security-critical line on a list, and see that a test notices: WORDS="token_service"
	@$(BIN)/python -m tests.mutations $(WORDS)

.PHONY: mutants
mutants: $(VENV)/.mutants ## Change one thing at a time and see which changes no test notices: MUTANTS='proxy.identity.cache.*'
	@$(BIN)/mutmut run $(foreach one,$(MUTANTS),'$(one)')
	@$(BIN)/mutmut results

# Attacks

.PHONY: fuzz
fuzz: $(VENV)/.fuzz ## Fuzz every parser for a while: SECONDS=60, TARGETS="authority configuration"
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(TARGETS)

.PHONY: slow-attacks
slow-attacks: $(VENV)/.test ## Attack a listener slowly while a client goes on: headers, bodies, reading (slowhttptest)
	@.ci/install-test-tools slow-attacks
	@$(BIN)/python -m tests.security.slow

# What it is made of

.PHONY: lock
lock: $(VENV)/.supply ## Pin the image's dependencies anew, by version and hash: LOCK_ARGS=--upgrade
	@$(LOCK) $(LOCK_ARGS) --extra redis --output-file requirements.lock pyproject.toml
	@$(LOCK) $(LOCK_ARGS) --output-file requirements-build.lock --constraints requirements.lock requirements-build.in

.PHONY: audit
audit: $(VENV)/.supply ## Ask for known vulnerabilities of what the image is built from: ARGS="--vulnerability-service osv"
	@$(BIN)/python -m tests.security.audit $(ARGS)

.PHONY: sbom
sbom: $(VENV)/.supply ## Write a CycloneDX bill of what the image has into build/sbom.cdx.json
	@rm -rf build/sbom && $(PYTHON) -m venv --without-pip build/sbom
	@$(PIP) --quiet --python build/sbom/bin/python install --require-hashes --only-binary :all: --requirement requirements.lock
	@$(BIN)/python -m tests.security.sbom build/sbom build/sbom.cdx.json

.PHONY: fidelity-table
fidelity-table: $(VENV)/.dev test-tools ## Measure what this proxy and others change, and make of odd responses, into docs/behaviour.md
	@$(BIN)/python -m tests.fidelity

.PHONY: clients-table
clients-table: $(VENV)/.dev test-tools ## Measure which programs use the proxy under `exec` alone, into docs/clients.md (npm)
	@$(BIN)/python -m tests.client_table

.PHONY: docs
docs: $(VENV)/.docs ## Build the documentation site into build/site, and look for what is missing in it
	@$(BIN)/python -m website build/pages
	@NO_MKDOCS_2_WARNING=1 SITE_VERSION="$$($(BIN)/apim-auth-proxy --version | cut -d ' ' -f 1-2)" $(BIN)/python -m mkdocs build --strict
	@$(BIN)/python -m pytest -q tests/site/check_site.py

.PHONY: docs-serve
docs-serve: $(VENV)/.docs ## Show the documentation site at http://127.0.0.1:8000
	@$(BIN)/python -m website build/pages
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

.PHONY: troubleshooting
troubleshooting: $(VENV)/.runtime ## Write docs/troubleshooting.md from the table of codes in proxy/explanations
	@$(BIN)/python -m proxy.explanations.page > docs/troubleshooting.md

.PHONY: test-compiled
test-compiled: $(VENV)/.test test-tools ## Run the relay's tests against its compiled form, as the image has it; needs a C compiler
	@.ci/test-compiled $(CURDIR)/$(BIN)/python

.PHONY: test-watching
test-watching: $(VENV)/.test test-tools ## Watch what takes longer than a test should: a token's life, a real Prometheus
	@$(BIN)/python -m pytest -q tests/end_to_end/long_watching.py

.PHONY: test-deploy
test-deploy: $(VENV)/.deploy ## Test what is below deploy/: helm, kubectl, checkov, crun, nginx, Envoy, … (root; downloads 300 MB)
	@.ci/install-test-tools deploy
	@$(BIN)/python -m pytest -q tests/deploy/check_*.py $(PYTEST_ARGS)

.PHONY: deploy-files
deploy-files: $(VENV)/.runtime ## Make those files below deploy/ that follow from others: the chart's copies and schema
	@$(BIN)/python -m tests.deploy.artefacts

.PHONY: kustomize
kustomize: $(VENV)/.runtime ## Make the Kustomize base from the chart
	@.ci/install-kubernetes-tools
	@$(BIN)/python -m tests.deploy.kustomize_base

.PHONY: screenshots
screenshots: $(VENV)/.test ## Take the pictures of the admin site's page again (Chromium; seven minutes)
	@$(BIN)/python -m tests.screenshots

.PHONY: recording
recording: $(VENV)/.test ## Record the demo again, as the README's moving picture
	@$(BIN)/python -m tests.recording

# Speed

.PHONY: bench
bench: $(VENV)/.dev ## Measure the cost of a request beside other proxies: BENCH_ARGS="--cells tls-get"
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

.PHONY: simulate-fleet
simulate-fleet: $(VENV)/.dev ## Simulate fleets in virtual time, into benchmarks/fleet.md and fleet.svg: FLEET_ARGS="--replicas 1,50 --limit 15"
	@$(BIN)/python -m benchmarks.fleet $(FLEET_ARGS)

.PHONY: bench-smoke
bench-smoke: $(VENV)/.dev ## Compare the cost of a request with a bare relay's; fails if it has grown too far
	@$(BIN)/python -m benchmarks.smoke

.PHONY: wheel-compiled
wheel-compiled: $(VENV)/.runtime ## Build a wheel into dist/ whose relay is compiled; needs a C compiler
	@rm -rf build/compiled && .ci/copy-sources build/compiled
	@HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(PIP) wheel --no-deps --wheel-dir dist build/compiled
	@rm -rf build/compiled

.PHONY: packages
packages: $(VENV)/.supply ## Build the source archive, and of it the wheel without compiled parts, into dist/
	@rm -rf dist && $(BIN)/python -m build --outdir dist

.PHONY: test-packages
test-packages: packages $(VENV)/.test ## Install what `make packages` built, and nothing else, and get an answer through it
	@$(BIN)/python -m pytest -q tests/packaging/check_*.py

# The container image

.PHONY: image
image: ## Build the container image with docker, podman or buildah: IMAGE=name, BASE_IMAGE=python:3.13-slim-bookworm
	@for tool in docker podman buildah; do \
	    command -v "$$tool" >/dev/null || continue; \
	    format=(); [[ $$tool == docker ]] || format=(--format docker); \
	    exec "$$tool" build "$${format[@]}" --tag "$(IMAGE)" $(if $(BASE_IMAGE),--build-arg BASE_IMAGE="$(BASE_IMAGE)") .; \
	done; echo "Install docker, podman or buildah to build the image." >&2; exit 1

.PHONY: image-test
image-test: $(VENV)/.runtime ## Build the image and call an API through it, read-only and unprivileged (root; buildah, crun)
	@.ci/install-test-tools image
	@$(BIN)/python -m tests.image.check_image

.PHONY: clean
clean: ## Remove the environment and everything made here
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	@find proxy tests -name __pycache__ -type d -prune -exec rm -rf {} +
