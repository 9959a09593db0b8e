# Everything runs from a virtual environment in .venv, which the first target that needs it makes.
# Paths are relative: make splits names at spaces, and the folder of the clone may have one.
PYTHON ?= python3
PYTEST_ARGS ?=
NANO_ARGS ?=

VENV_PYTHON := .venv/bin/python
METIS := $(VENV_PYTHON) -m metis_lightning

.DEFAULT_GOAL := help
.PHONY: help demo numbers nano test lint types docs

help: ## list the targets
	@echo 'usage: make TARGET [PYTHON=python3.11]'
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r name about; do \
		printf '%-10s %s\n' "$$name" "$$about"; done

demo: .venv/.installed ## train a TSE LoRA on the embedded corpus, evaluate it, write the table
	$(METIS) fit -c configs/demo.yaml
	$(METIS) validate -c configs/demo.yaml --ckpt_path runs/demo/checkpoints/last.ckpt
	$(VENV_PYTHON) -m metis_lightning.weights.export runs/demo/checkpoints/last.ckpt runs/demo/lora
	$(METIS) evaluate --task tse --system runs/demo/checkpoints/last.ckpt --limit 8 --out evaluation/results/demo --max-failed-share 1
	$(METIS) tables
	@echo
	@echo 'LoRA         runs/demo/lora (to resume: runs/demo/checkpoints/last.ckpt)'
	@echo 'TensorBoard  $(VENV_PYTHON) -m tensorboard.main --logdir runs'
	@echo 'results      evaluation/results/demo (utterances.jsonl, summary.json, protocol.json)'
	@echo 'table        evaluation/tables/table_03.md'

numbers: demo ## take the numbers of README, docs and of nano's card anew, an hour on 2 cores
	$(METIS) evaluate --task tse --system nano --test-sets test-unseen --out evaluation/results/nano --max-failed-share 1
	$(VENV_PYTHON) evaluation/readme_numbers.py

nano: .venv/.developed ## evaluate nano on all of its tasks, write evaluation/nano; NANO_ARGS='--limit 4' is a trial
	$(VENV_PYTHON) evaluation/nano_results.py $(NANO_ARGS)
	$(VENV_PYTHON) evaluation/nano_page.py

test: .venv/.developed ## run the tests
	$(VENV_PYTHON) -m pytest -n 2 $(PYTEST_ARGS)

lint: .venv/.developed ## check style and format with ruff
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .

types: .venv/.developed ## check types with mypy
	$(VENV_PYTHON) -m mypy

docs: .venv/.documented ## build the docs site into build/docs, every link checked
	NO_MKDOCS_2_WARNING=1 $(VENV_PYTHON) -m mkdocs build --strict --quiet
	@echo 'docs         build/docs/index.html'

# A stamp is newer than pyproject.toml once everything that it stands for is installed.
.venv/.installed: pyproject.toml
	'$(PYTHON)' -m venv .venv
	$(VENV_PYTHON) -m pip install -e '.[eval,offline]'
	touch .venv/.installed

.venv/.developed: .venv/.installed
	$(VENV_PYTHON) -m pip install -e '.[eval,offline,metrics,text,vc,video,dev]'
	touch .venv/.developed

.venv/.documented: .venv/.installed
	$(VENV_PYTHON) -m pip install -e '.[docs]'
	touch .venv/.documented
