# The whole workflow.  Every target makes its own environment (.venv, pinned by constraints.txt) when it is missing.
#   make pretrain-mvd                       generate the default videos, train, export, probe
#   make pretrain-mvd DATA="/my videos"     on your own videos, with pretrain/mvd/small.yaml; nothing is probed
#   make pretrain-videomae RECIPE=pretrain/videomae/vit_s_k400.yaml SET="training.duration='10 epochs'"
#   make test TORCH=cpu                     the build of torch: cuda where there is a GPU, else cpu (2 GB smaller)

PYTHON ?= python3
BIN := .venv/bin
RECIPE ?=
DATA ?=
SET ?=
RUN ?=
TORCH ?= $(if $(shell nvidia-smi -L 2>/dev/null),cuda,cpu)
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
# What the shell is to take as one word, whatever is in it: spaces, #, quotes, $. `value` keeps make from reading it.
quoted = '$(subst ','\'',$(1))'
# People's own videos are trained on by the recipe of the `small` tier, the generated ones by the demo.
tier = $(if $(value DATA),$(if $(wildcard pretrain/$*/small.yaml),small,demo),demo)
# A recipe that is named trains in a folder of its own name: that of the demo is begun already.
run = $(call quoted,$(or $(value RUN),runs/$*-$(or $(basename $(notdir $(value RECIPE))),$(tier))))

.PHONY: help compare test test-trust test-fast golden mutation static check format clean
.DEFAULT_GOAL := help

help:  ## what there is
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22
	@echo
	@echo 'X: $(notdir $(wildcard pretrain/*))'
	@echo 'RECIPE=file  DATA=folder|list|table  RUN=folder  SET="key=value ..."   go with pretrain-X; TORCH=cpu|cuda with any'

install = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
install-torch-cuda = $(install) torch
# The index of pytorch has builds without CUDA, and old versions of everything else, which come with the next line.
# Where it cannot be reached, the default build runs on a CPU just as well.
install-torch-cpu = $(install) --retries 1 --timeout 20 --index-url $(CPU_INDEX) --no-deps torch || $(install-torch-cuda)

ifeq ($(filter $(TORCH),cpu cuda),)
$(error TORCH=$(TORCH) is no build of torch: give cpu or cuda)
endif

.venv/.ready: pyproject.toml constraints.txt
	@echo "making the environment .venv (a few minutes, once)"
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "video_ssl needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	@echo "torch: the build for $(TORCH)"
	$(install-torch-$(TORCH))
	$(install) --editable '.[dev]'
	@touch $@

pretrain-%: .venv/.ready  ## train objective X and run the evaluations that its recipe names
	$(BIN)/video-ssl pretrain $(call quoted,$(or $(value RECIPE),pretrain/$*/$(tier).yaml)) run=$(run) \
	  $(if $(value DATA),data.table=$(call quoted,$(value DATA)),--evaluate) $(SET)
	$(if $(value DATA),@printf "To probe it: %s evaluate evaluate/probe.yaml encoder='%s' train=... test=...\n" $(BIN)/video-ssl $(run))

compare: .venv/.ready  ## every objective with the same budget, on one page (hours; goes on where it was stopped)
	$(BIN)/video-ssl compare $(call quoted,$(or $(value RECIPE),demo)) $(SET)

test: .venv/.ready  ## every test
	$(BIN)/python tests/run_all.py

test-trust: .venv/.ready  ## 5,000 damaged files and 100 kills, in about an hour
	VIDEO_SSL_FUZZ_CASES=5000 VIDEO_SSL_KILLS=100 $(BIN)/python -m pytest -q -s tests/trust

test-fast: .venv/.ready  ## the tests that take seconds
	$(BIN)/python tests/run_all.py -m "not slow"

golden: .venv/.ready  ## compare with the numbers of the reference codes, and write how near we come into docs/measurements.md
	$(BIN)/python -m pytest -q -m golden --golden-report docs/measurements.md

mutation: .venv/.ready  ## put errors into a copy, one at a time, and write which of them the tests see into docs/measurements.md
	$(BIN)/python tests/mutation/run.py --report docs/measurements.md

static: .venv/.ready  ## format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: static test-fast  ## static checks and the fast tests

format: .venv/.ready  ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove caches (keeps .venv, data/ and runs/)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build
