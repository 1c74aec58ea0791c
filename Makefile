# Everything that people and CI do here. `make` alone lists the targets.
#
# .venv is made from the locked versions, once for what runs (run.stamp) and once for what tests and
# checks need, too (dev.stamp): the second has all of the first, so both share the folder.

PYTHON ?= python3
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check
PACKAGES := yard producer models worker gateway modelyard

# The oldest and the newest Kubernetes whose schemas the manifests are held against; KEDA's objects
# have a schema of their own.
KUBERNETES := 1.29 1.37
SCALED := $(wildcard deploy/k8s/*/scaledobject.yaml)
MANIFESTS := $(filter-out %/kustomization.yaml $(SCALED),$(wildcard deploy/k8s/*/*.yaml))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test coverage chaos lint format docs bench wheel lock clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/run.stamp ## Start Redis, the gateway and workers here; Ctrl-C stops them.
	@exec $(PY) -I -S yard/platform/pdeathsig.py 15 $$PPID $(VENV)/bin/modelyard up $(ARGS)

# Most tests wait for processes, so three files run side by side on two cores, in our own order.
test: $(VENV)/dev.stamp ## Run every test that this machine can run.
	@$(PY) -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

coverage: $(VENV)/dev.stamp ## Run the tests, and show which branches none of them takes.
	@$(PY) -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

chaos: $(VENV)/dev.stamp ## Break all that can break, at random, for half an hour; ARGS="--seed N".
	@CHAOS_EXAMPLES=3000 $(PY) -m pytest tests/integration/worker/test_protocol_state_machine.py
	@CHAOS_TIMES=25 $(PY) -m pytest tests/acceptance/test_named_points.py
	@$(PY) -m pytest tests/chaos
	@$(PY) -m tests.chaos $(ARGS)

lint: $(VENV)/dev.stamp ## Check style, types, imports, made pages, and deploy/.
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(PY) docs/write_settings.py --check
	@$(PY) docs/write_manifest_schema.py --check
	@$(VENV)/bin/yamllint --strict docker-compose.yml deploy .github .pre-commit-config.yaml
	@$(VENV)/bin/hadolint deploy/Dockerfile
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	@$(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(VENV)/bin/check-jsonschema --quiet --check-metaschema deploy/schemas/*.json
	@$(VENV)/bin/check-jsonschema --quiet --schemafile deploy/schemas/scaledobject.json $(SCALED)
	@for version in $(KUBERNETES); do \
		$(VENV)/bin/kubernetes-validate --strict --quiet -k $$version $(MANIFESTS) || exit 1; done

format: $(VENV)/dev.stamp ## Put the code into the common form.
	@$(VENV)/bin/ruff check --fix
	@$(VENV)/bin/ruff format

docs: $(VENV)/dev.stamp ## Write the settings page and the manifest's schema.
	@$(PY) docs/write_settings.py
	@$(PY) docs/write_manifest_schema.py

bench: $(VENV)/dev.stamp ## Measure, side by side with peers; ARGS=--quick for a trial.
	@$(PY) -m bench $(ARGS)

wheel: $(VENV)/dev.stamp ## Build the wheel into dist/.
	@$(VENV)/bin/hatchling build -t wheel

lock: ## Choose versions within pyproject.toml's bounds; ARGS=--upgrade for the newest.
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip --quiet --disable-pip-version-check install 'uv~=0.13.8'
	@mkdir -p locks
	@$(COMPILE) --extra all --group dev --output-file locks/dev.txt
	@$(COMPILE) --extra all --group build --constraint locks/dev.txt --output-file locks/run.txt

clean: ## Remove what is made here; data and models stay.
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@rm -f .coverage .coverage.*

# No addresses of indexes in the files: a lock pins what is installed, not its origin.
COMPILE = build/lock/bin/uv pip compile --quiet pyproject.toml --universal --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header $(ARGS)

# A dev.stamp that is up to date has everything that runs.
$(VENV)/run.stamp: locks/run.txt pyproject.toml | $(PY)
	@if [ ! $(VENV)/dev.stamp -nt locks/dev.txt ] || [ ! $(VENV)/dev.stamp -nt pyproject.toml ]; then \
		$(call install,locks/run.txt); fi
	@touch $@

$(VENV)/dev.stamp: locks/dev.txt pyproject.toml | $(PY)
	@$(call install,locks/dev.txt)
	@touch $@

install = echo "Installing $(1) into $(VENV), once ..." \
	&& $(PIP) install --no-deps --require-hashes --requirement $(1) \
	&& $(PIP) install --no-deps --no-build-isolation --editable .

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Modelyard needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }
