# make setup | demo | test | lab | docs | readme | templates | bench | clean
PYTHON ?= python3
BIN := .venv/bin
DEMO := outputs/demo

export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test lab docs readme templates bench clean

setup: .venv/.installed

# torch comes first and alone: asked for together with the rest, pip may choose another build of it.
.venv/.installed: constraints.txt settings.ini setup.py pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'Python 3.11 or newer is needed; set PYTHON=...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# The tiny model gains nothing from threads, and loses much where other programs keep a core busy.
demo test: export OMP_NUM_THREADS := 1

demo: setup
	$(BIN)/clipsent sample $(DEMO)
	$(BIN)/clipsent run --project-root $(DEMO) --settings nbs/demo.toml

test: setup
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lab: setup
	$(BIN)/jupyter lab nbs/index.ipynb

# A site in build/docs, made of notebooks, code and docs/
docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/docs

readme: setup
	$(BIN)/python tests/readme.py > README.md

# The cell of parameters of nbs/reports/run.ipynb, from the fields of TrainConfig
templates: setup
	$(BIN)/python tests/templates.py

# An hour or so. BENCH="--quick" takes minutes and only shows that all of it runs. Otherwise on a generated sample and a random ViT-B/32.
bench: setup
	mkdir -p outputs/bench
	for name in startup inputs features train_step partial frozen predict labelling limit memory precision scale; do \
		echo "== $$name"; $(BIN)/python benchmarks/$$name.py --json outputs/bench/$$name.json $(BENCH) || exit 1; \
	done

clean:
	rm -rf $(DEMO) sample nbs/sample .pytest_cache .ruff_cache .hypothesis build *.egg-info
