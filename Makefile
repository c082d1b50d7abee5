# Everything runs in .venv, which `make install` fills from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test ray lint check docs bench faults slurm lock clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mixsweep needs Python 3.11 or newer; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(STAMP)  ## the four ablations in miniature, and their report
	$(BIN)/sweep run demo --store runs
	$(BIN)/sweep report demo --store runs

test: $(STAMP)  ## the fast suite
	$(BIN)/pytest -n 2 --dist loadfile -m "not ray and not faults and not slurm and not bench"

ray: $(STAMP)  ## all that starts a Ray cluster, of several nodes and several hosts
	$(BIN)/pytest -n 2 --dist loadfile -m "ray and not faults and not slurm and not bench"

faults: $(STAMP)  ## kills, full disks and damaged files
	$(BIN)/pytest -n 2 --dist loadfile -m "faults and not slurm"

slurm: $(STAMP)  ## all that needs a real SLURM, which the tests bring up by themselves
	$(BIN)/pytest -n 2 --dist worksteal -m slurm

lint: $(STAMP)  ## formatter, linter, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m tests.support.package_links build/check
	MYPYPATH=build/check $(BIN)/mypy
	cd build/check && ../../$(BIN)/lint-imports --config ../../pyproject.toml

check: lint  ## the above, and all tests
	$(BIN)/pytest -n 2 --dist loadfile

docs: $(STAMP)  ## the documentation as a site in build/docs; a warning is an error
	rm -rf build/docs build/doctrees
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -d build/doctrees docs build/docs

bench: $(STAMP)  ## speed, as ratios
	$(BIN)/pytest -q -m bench
	$(BIN)/python -m tests.benchmarks.speed

lock:  ## pin what pyproject.toml asks for, anew
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet uv
	{ echo "# Every package that mixsweep and its tests use, pinned; made by 'make lock' from pyproject.toml."; \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header \
	    --no-annotate --extra dev --extra docs pyproject.toml; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf .venv runs
