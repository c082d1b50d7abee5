# Everything runs in .venv, which `make install` fills from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test lowest ray lint check docs bench simulate gpu faults faults-full examples slurm lock clean

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

# The tests that use the libraries' interfaces; `make test` has all.
LOWEST := tests/core/store/test_store.py tests/core/training/test_trainer.py tests/core/data/test_datasets.py \
	tests/sweep/planning/test_space.py tests/sweep/planning/test_plan.py tests/sweep/search/test_asha.py \
	tests/sweep/search/test_suggestions.py tests/sweep/backends/slurm/test_batch_scripts.py tests/sweep/cli/test_app.py \
	tests/analysis/inference tests/analysis/report/test_figures.py tests/analysis/wandb_mirror/test_mirror.py \
	tests/sweep/trainables/test_tune_trials.py tests/core/training/test_optim.py

lowest:  ## the oldest versions that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check -r requirements.lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	.venv-lowest/bin/python -m pytest -n 2 --dist loadfile -m "not ray and not faults and not slurm and not bench" $(LOWEST)

ray: $(STAMP)  ## all that starts a Ray cluster, of several nodes and several hosts
	$(BIN)/pytest -n 2 --dist loadfile -m "ray and not faults and not slurm and not bench"

faults: $(STAMP)  ## kills, full disks, damaged files, a file server that fails
	$(BIN)/pytest -n 2 --dist loadfile -m "faults and not slurm"

FAULTS := $(BIN)/python -m tests.faults
TABLE := --table docs/reliability.md

faults-full: $(STAMP)  ## the whole campaign, some hours; adds its rows to docs/reliability.md
	MIXSWEEP_FUZZ_EXAMPLES=2000 $(BIN)/pytest tests/integration/fuzz --timeout 7200
	$(FAULTS) calls --reads $(TABLE)
	$(FAULTS) damages $(TABLE)
	$(FAULTS) networks --rounds 5 $(TABLE)
	$(FAULTS) kills debug --faults 60 $(TABLE)
	$(FAULTS) kills local --faults 40 $(TABLE)
	$(FAULTS) kills local --faults 40 --rule --seed 2 $(TABLE)
	$(FAULTS) kills ray --faults 30 --rule $(TABLE)
	$(FAULTS) kills ray-apart --faults 30 $(TABLE)
	$(FAULTS) kills slurm --faults 60 --rule $(TABLE)
	$(FAULTS) soak local --trials 10000 $(TABLE)
	$(FAULTS) soak ray --trials 1000 $(TABLE)
	$(FAULTS) soak slurm --trials 1000 $(TABLE)

examples: $(STAMP)  ## each example in every kind of place, killed in the middle
	EXAMPLES=all $(BIN)/pytest -v tests/integration/test_examples.py

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

simulate: $(STAMP)  ## false verdicts and power in simulated sweeps, into docs/explanation/statistics.md: some minutes of CPU
	$(BIN)/python -m tests.analysis.simulation --jobs 2 --table docs/explanation/statistics.md

gpu: $(STAMP)  ## checks and timings on a GPU, then the study at full size; SWEEP_DATA=DIR make gpu MINUTES=60
	$(BIN)/python -m tests.benchmarks.gpu $(if $(SWEEP_DATA),--data $(SWEEP_DATA)) --minutes $(or $(MINUTES),60)

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate

lock:  ## pin what pyproject.toml asks for, anew: the newest versions, and the oldest
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet uv
	{ echo "# Every package that mixsweep and its tests use, pinned; made by 'make lock' from pyproject.toml."; \
	  $(COMPILE) --extra dev --extra docs pyproject.toml; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	{ echo "# The oldest versions of what pyproject.toml names, with all that they need; made by 'make lock'."; \
	  $(COMPILE) --extra all --extra test --resolution lowest-direct pyproject.toml; } > requirements.lowest.new
	mv requirements.lowest.new requirements.lowest

clean:
	rm -rf .venv .venv-lowest runs
