# Thin: everything works as plain `pip install .` and `moretta ...` too.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow lint bench bench-quick protos docs clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Moretta needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/moretta demo --out demo

# File after file as they stand, so that the small ones come last and both processes end together. Those of tests/e2e
# start processes by the dozen, share them, and wait for them: four at a time keep two cores at work. They run also if
# others have failed. What takes minutes alone is left to `make test-slow`.
test: $(STAMP)
	first=0; $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow" --ignore tests/e2e --durations 10 || first=$$?; \
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile -m "not slow" tests/e2e --durations 10 && exit $$first

test-slow: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist load -m slow --durations 10

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd tests/benchmarks && $(abspath $(BIN))/mypy --config-file /dev/null --ignore-missing-imports --check-untyped-defs *.py
	$(BIN)/lint-imports

# What Moretta is measured against is installed for it alone.
bench bench-quick: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m tests.benchmarks $(if $(filter bench-quick,$@),--quick)

protos: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -Imoretta/shared/pb=protos --python_out=src --pyi_out=src \
		moretta/shared/pb/enrollment.proto moretta/shared/pb/relay.proto

# What builds the site is installed for it alone: 115 MB, most of it icons and languages.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	mkdir -p build
	$(BIN)/python -m typer moretta.deploy.cli.main utils docs --name moretta | tail -n +2 > build/commands.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) demo out site build .mypy_cache .ruff_cache .pytest_cache
