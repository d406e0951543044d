# Two commands matter: `make demo` and `make test`. Everything installs into .venv, once.

VENV := .venv
BIN := $(VENV)/bin
PACKAGES := app compressors router variants
CHECKED := $(PACKAGES) tests examples benchmarks deploy

# Packages are installed uncompiled, which is quick; what is imported is compiled once and kept.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo serve compiled test testcompiled check lock clean
.DELETE_ON_ERROR:

help: ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/installed-build ## build, measure and serve a ladder of variants (ARGS=--no-serve to stop after)
	@$(BIN)/gearshift demo $(ARGS)

serve: $(VENV)/installed-serve ## start the gateway (ARGS="--port 8000 …")
	@$(BIN)/gearshift serve $(ARGS)

# The whole source, so that whatever is started there (`gearshift`, tests, benchmarks) is compiled.
COMPILED := build/compiled
compiled: $(VENV)/installed-dev ## copy the source to build/compiled, what requests pass compiled (needs a C compiler)
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED)
	@cp -R $(CHECKED) docs pyproject.toml LICENSE README.md $(COMPILED)
	@$(BIN)/python deploy/compile.py $(COMPILED)

# What needs the machine to itself runs alone, after the rest has shared its cores file by file.
ALONE := tests/faults

test: $(VENV)/installed-dev $(VENV)/servers/ready ## run the tests, quick ones first (ARGS="-k router …" runs those one by one)
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ALONE:%=--ignore=%)
	@$(BIN)/python -m pytest $(ALONE)
endif

# Compiled code may differ where Python is at its most dynamic, so what passes through it is tested.
testcompiled: compiled ## run the tests of what requests pass once more, compiled
	@cd $(COMPILED) && ../../$(BIN)/python -m pytest --quiet -p no:cacheprovider --numprocesses auto --dist loadfile \
		tests/app tests/router/test_gate.py $(foreach name,binary cascades headers rollout tensors,tests/end_to_end/test_$(name).py)

check: $(VENV)/installed-dev ## format, lint, types, layers and dependencies
	@$(BIN)/ruff format --check --quiet --diff $(wildcard $(CHECKED))
	@$(BIN)/ruff check --quiet $(wildcard $(CHECKED))
	@$(BIN)/mypy $(foreach package,$(PACKAGES),-p $(package))
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/deptry --no-ansi .

lock: $(BIN)/python ## write the lock files anew from pyproject.toml
	@$< deploy/lock.py

clean: ## remove what was installed and what tools cached
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp per set of packages: nothing runs while lock and project are older than it.
$(VENV)/installed-serve: requirements.lock
$(VENV)/installed-build: requirements-build.lock
$(VENV)/installed-dev: requirements-dev.lock
$(VENV)/installed-%: pyproject.toml $(BIN)/python
	@echo "Installing what '$*' needs into $(VENV) (once; the first time downloads packages)"
	@$(BIN)/python -m pip install -qq --no-compile --no-input -r $(filter %.lock,$^) --editable .
	@touch $@

# PostgreSQL, nginx, Prometheus and libfaketime, where they are not installed; tests skip without.
$(VENV)/servers/ready: deploy/servers.sh | $(BIN)/python
	@$< $(VENV)
	@touch $@

$(BIN)/python:
	@deploy/venv.sh $(VENV)
