# make setup | demo | test | lab | readme | clean
PYTHON ?= python3
BIN := .venv/bin
DEMO := outputs/demo
TRAIN := --project-root $(DEMO) --model-name tiny_clip --epochs 16 --freeze-epochs 0 --early-stop 0 --lr 5e-4 --head-lr 1e-3 --weight-decay 0.01 --use-cosine --warmup-ratio 0.1
SHORT := --epochs 6 --dropout 0.2 --jobs 2

export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test lab readme clean

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
	$(BIN)/clipsent splits --project-root $(DEMO) --val-ratio 0.2
	$(BIN)/clipsent optimize $(TRAIN) --output-dir outputs/optimize/clip
	$(BIN)/clipsent grid $(TRAIN) $(SHORT) --batch-sizes 8,16 --lrs 2e-4,1e-3
	$(BIN)/clipsent heads $(TRAIN) $(SHORT) --variants base,ln,mlp,gated --seeds 42
	$(BIN)/clipsent preprocess $(TRAIN) $(SHORT) --rules none,improved --seeds 42
	$(BIN)/clipsent predict --project-root $(DEMO) --weights outputs/optimize/clip/best.pt
	@echo "prediction file: $(DEMO)/outputs/test_with_label_clip_aug.txt"
	@echo "reports:"; ls $(DEMO)/outputs/optimize/clip/report.html $(DEMO)/outputs/optimize/*/report.html | sort -u

test: setup
	$(BIN)/ruff check .
	$(BIN)/nbdev-test --n-workers 2
	$(BIN)/python -m pytest --numprocesses 2

lab: setup
	$(BIN)/jupyter lab nbs

readme: setup
	$(BIN)/python tests/readme.py > README.md

clean:
	rm -rf $(DEMO) nbs/sample .pytest_cache .ruff_cache .hypothesis build *.egg-info
