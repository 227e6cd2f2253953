# Every command of the project. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
VENV := .venv
SITE_VENV := .venv-site
PYTHON := $(VENV)/bin/python
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
CASE ?= all
INPUTS ?= 1000000
SEED ?= 1

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 17

$(VENV)/.installed: requirements-dev.txt pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed, as python3"; exit 1; }
	@python3 -m venv $(VENV) || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy python3-venv && python3 -m venv $(VENV); }
	$(VENV)/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(VENV)/bin/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: venv
venv: $(VENV)/.installed ## the virtual environment, from the lock

.PHONY: bed
bed: venv ## what the test bed needs: Debian's etcd, PostgreSQL, PgBouncer (and a newer one), sshd; Patroni from PyPI
	@$(SUDO) $(PYTHON) -m tests.support.install

.PHONY: demo
demo: bed ## a real cluster, clients on it, a switchover and a crash, and what the clients saw; a minute
	@$(SUDO) $(PYTHON) -m tests.e2e.demo

.PHONY: test
test: bed ## the suite, on real servers, two files at a time; ten minutes
	@$(SUDO) $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

.PHONY: test-long
test-long: bed ## what takes longest: every alert and its runbook, secrets sought everywhere, the demo, the bed
	@$(SUDO) $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long

.PHONY: every-step
every-step: bed ## kill, freeze and cut off watcher and agent at every single step of a switch; a quarter of an hour
	@$(SUDO) WATCHER_TESTS_EVERY_STEP=1 $(PYTHON) -m pytest tests/e2e/test_killed_at_every_step.py \
		tests/e2e/test_takeover.py

.PHONY: soak-hostile
soak-hostile: venv ## search for inputs that break a promise, at every door; INPUTS=1000000 SEED=1
	@$(PYTHON) -m tests.hostile --inputs $(INPUTS) --seed $(SEED)

.PHONY: test-deploy
test-deploy: bed-deploy ## the image, and the system by compose and by Ansible, in containers of podman; 20 minutes
	@$(SUDO) $(PYTHON) -m pytest tests/deploy -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: bed-deploy
bed-deploy: bed ## what test-deploy needs beside the bed: podman, Ansible and their like
	@$(SUDO) $(PYTHON) -m tests.support.install_deploy

.PHONY: images
images: bed-deploy ## every image that test-deploy needs, ahead of it
	@$(SUDO) $(PYTHON) -m tests.deploy

.PHONY: mutants
mutants: venv ## break watcher/decide/ in 4,700 ways, one at a time, and see that its tests notice each; 20 minutes
	@$(PYTHON) -m tests.simulation.deliberate
	@$(PYTHON) -m tests.mutants.covered
	@$(PYTHON) -m tests.mutants

.PHONY: check
check: venv docs-site ## format, lint, types, import contracts, bandit; that no link of the docs leads nowhere
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/bandit -q -c pyproject.toml -r watcher

.PHONY: audit
audit: venv ## whether anything in the lock files has a known advisory; asks PyPI, or AUDIT='-s osv'
	@$(PYTHON) -m tests.support.audit $(AUDIT)

.PHONY: chaos
chaos: bed ## real faults on real servers, each once in eight minutes, or for SECONDS=n; SEED=n for another order
	@$(SUDO) $(PYTHON) -m tests.chaos --seed $(SEED) --seconds $(or $(SECONDS),0) --errors

.PHONY: chaos-faults
chaos-faults: bed ## break the product on purpose in five ways, and see that chaos notices each; ten minutes
	@$(SUDO) $(PYTHON) -m tests.chaos --faults

.PHONY: bench
bench: bed ## measure, beside rivals; two hours and a half, CASE=name for one case
	@$(SUDO) $(PYTHON) -m tests.benchmarks $(CASE)

.PHONY: soak
soak: soak-simulation soak-hostile soak-switches ## all the long runs, one after the other: a day and more

.PHONY: simulate
simulate: venv ## 10,000 schedules of faults against a simulated world, and deliberate faults; ten minutes
	@$(PYTHON) -m tests.simulation.deliberate
	@$(PYTHON) -m tests.simulation --count 8000
	@$(PYTHON) -m tests.simulation --count 2000 --start 8000 --canary

.PHONY: soak-simulation
soak-simulation: venv ## COUNT schedules, a million unless said, from seed START on, at idle priority
	@nice -n 19 $(PYTHON) -m tests.simulation --count $(or $(COUNT),1000000) --start $(or $(START),10000)

.PHONY: soak-switches
soak-switches: bed ## switchovers without a pause for SECONDS, two hours unless said: who fails, what grows
	@$(SUDO) $(PYTHON) -m tests.soak.by_keys
	@$(SUDO) $(PYTHON) -m tests.soak --seconds $(or $(SECONDS),7200)

.PHONY: plot
plot: venv ## draw docs/switchover.svg and docs/crash.svg from what make bench met last
	@$(PYTHON) -m tests.benchmarks --plot

.PHONY: pictures
pictures: bed ## draw docs/status*.png, and walk docs/walks.md: three faults on the bed, from the alert to the mend
	@$(SUDO) $(PYTHON) -m tests.e2e.test_browser
	@$(SUDO) $(PYTHON) -m tests.e2e.walks

.PHONY: format
format: venv ## put the format right
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

.PHONY: docs
docs: venv ## write the pages of docs/ that are made from the code
	@$(PYTHON) -m watcher.settings.page docs/configuration.md
	@$(PYTHON) -m watcher.expose.reference docs/metrics.md docs/status.schema.json

.PHONY: dist
dist: venv ## what is released, in dist/: sdist and wheel
	rm -rf dist
	$(VENV)/bin/uv build -q --no-build-isolation --python $(PYTHON) --out-dir dist

.PHONY: sbom
sbom: venv ## its bill of materials, in dist/: what requirements.txt installs on this platform, as CycloneDX
	rm -rf build/sbom
	$(PYTHON) -m venv --without-pip build/sbom
	$(VENV)/bin/pip --python build/sbom install -q --disable-pip-version-check --require-hashes -r requirements.txt
	mkdir -p dist
	$(VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/pgbouncer-watcher.cdx.json build/sbom

$(SITE_VENV)/.installed: docs/site/requirements.txt | $(VENV)/.installed
	$(PYTHON) -m venv $(SITE_VENV)
	$(SITE_VENV)/bin/pip install -q --disable-pip-version-check --require-hashes -r docs/site/requirements.txt
	@touch $@

.PHONY: docs-site
docs-site: $(SITE_VENV)/.installed ## build the site of docs/ into build/site/; a link that leads nowhere fails it
	@NO_MKDOCS_2_WARNING=1 $(SITE_VENV)/bin/mkdocs build --strict -f docs/site/mkdocs.yml

COMPILE := $(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make lock"

.PHONY: lock
lock: venv ## resolve the dependencies anew into the lock files
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) pyproject.toml requirements-dev.in -o requirements-dev.txt
	for name in requirements-build docs/site/requirements deploy/ansible/roles/patroni/files/requirements; do \
		$(COMPILE) $$name.in -o $$name.txt; \
	done
