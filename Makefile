# Everything a user does. `make` alone lists the targets.
PYTHON ?= python3
CONFIG ?= configs/shards/sample.yaml
TRAIN ?= configs/train/sample.yaml
OUT ?=
ARGS ?=
Q ?= funnel
SAMPLE_WEB ?=

BIN := .venv/bin
SAMPLE := configs/shards/sample.yaml
OUTPUT := $(if $(OUT),--output $(OUT))

.DEFAULT_GOAL := help
.PHONY: help setup setup-train setup-dev sample-web queries shards train experiment sql report test test-all peers test-peers docs lint bench lock licences clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## / - /' | sort

setup: .venv/ready  ## make .venv for data sets; the targets below do so when they need it, and add what they need
setup-train: .venv/ready-train
setup-dev: .venv/ready-dev

# Every file that is taken must have a hash of a lock; the project itself brings nothing along. A set-up takes up what
# another left, and installs only what is missing or of another version. uv takes a tenth of pip's time; pip stands in
# where uv finds no way, as behind a mirror that only pip's own configuration names. Bytecode is written as pip would:
# where PYTHONDONTWRITEBYTECODE is set, every process of a run would compile what it imports, for most of a second.
install = { $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes --no-deps -r $(1) \
	|| { echo "uv could not; with pip, then." && $(PIP) --require-hashes --no-deps -r $(1); }; }
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
now = $$(date +%s)

.venv/ready: pyproject.toml setup.py requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; run make PYTHON=/path/to/a/newer/python"; exit 2; }
	@echo "Setting up .venv to make data sets, once: 370 MB to load, 1.2 GB on the disk."
	@start=$(now) && { test -x $(BIN)/python || $(PYTHON) -m venv .venv; } \
		&& awk '/^[^ ]/ { is_uv = /^uv==/ } is_uv' requirements.lock > .venv/uv.lock \
		&& { $(PIP) --require-hashes --no-deps -r .venv/uv.lock || true; } \
		&& $(call install,requirements.lock) \
		&& $(PIP) --no-deps --no-build-isolation -e . \
		&& $(BIN)/python -m pipeline.kernels \
		&& echo "Ready to make data sets, after $$(( $(now) - start )) s." && touch $@

.venv/ready-train: .venv/ready requirements-train.lock
	@echo "Adding the trainer to .venv, once: 2.9 GB to load, 5.5 GB on the disk, mostly torch."
	@start=$(now) && $(call install,requirements-train.lock) \
		&& echo "Ready to train, after $$(( $(now) - start )) s." && touch $@

.venv/ready-dev: .venv/ready requirements-dev.lock
	@echo "Adding all that tests need to .venv, once: 0.1 GB, and the trainer, 5.5 GB, where it is missing."
	@start=$(now) && $(call install,requirements-dev.lock) \
		&& echo "Ready to test, after $$(( $(now) - start )) s." && touch .venv/ready-train $@

sample-web: .venv/ready  ## build the miniature web in data/sample_web
	@$(BIN)/python -m pipeline.sample_web build $(SAMPLE_WEB)

queries: .venv/ready sample-web  ## build the sample's query list from the miniature encyclopedia
	@$(BIN)/python -m query_list build configs/queries/sample.yaml

shards: .venv/ready $(if $(filter $(SAMPLE),$(CONFIG)),sample-web queries)  ## crawl to shards: CONFIG=file OUT=dir ARGS="--section.key value"
	@$(BIN)/python -m pipeline run $(CONFIG) $(OUTPUT) $(ARGS)

train: .venv/ready-train $(if $(wildcard data/sample/shards/manifest.json),,shards)  ## train a small CLIP on the shards: TRAIN=config ARGS="..."
	@$(BIN)/python -m training run $(TRAIN) $(ARGS)

EXPERIMENT_WEB := --path data/experiment_web --statistics web --links 40000
# EVAL: an evaluation set of your own instead of the one that is made of the pictures.
experiment: .venv/ready-train  ## does balancing pay? QUICK=1 for a first look; PICTURES=dir for your own pictures
ifdef PICTURES
	@$(BIN)/python -m pipeline.sample_web from-pictures $(PICTURES)
	@$(BIN)/python -m query_list build configs/queries/pictures.yaml
	@$(BIN)/python -m training experiment configs/experiment/pictures.yaml $(if $(EVAL),--read_out.evaluation $(EVAL)) $(ARGS)
else
	@$(BIN)/python -m pipeline.sample_web build $(EXPERIMENT_WEB)
	@$(BIN)/python -m query_list build configs/queries/experiment.yaml
	@$(BIN)/python -m training experiment configs/experiment/$(if $(QUICK),quick,sample).yaml $(ARGS)
endif

sql: .venv/ready  ## ask the data set: Q="select ..." or Q=funnel, balance, failures, hosts, languages, image_sizes
	@$(BIN)/python -m pipeline sql $(CONFIG) "$(Q)" $(OUTPUT) $(ARGS)

report: .venv/ready  ## write the HTML data card
	@$(BIN)/python -m pipeline report $(CONFIG) $(OUTPUT) $(ARGS)

# Three workers, since many tests wait: for time-outs, for processes, for a Ray. ARGS="-n 0" goes without.
test: .venv/ready-dev  ## the default tests
	@$(BIN)/python -m pytest -q -n 3 $(ARGS)

test-all: .venv/ready-dev  ## all tests that need no GPU, slow ones too
	@$(BIN)/python -m pytest -q -m 'not gpu and not benchmark and not peers' $(ARGS)

PEERS := open_clip clip_benchmark datasets img2dataset mlcroissant transformers

peers: $(PEERS:%=.venv-peers/%/ready)  ## make the side environments of other readers (about a minute, 2.1 GB)

.venv-peers/%/ready: tests/peers/%.txt | .venv/ready-dev
	@rm -rf $(@D) && $(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

# These differ from the main environment in a few packages: that one stands behind them, torch and all.
OVER_MAIN := open_clip clip_benchmark transformers

$(OVER_MAIN:%=.venv-peers/%/ready): .venv-peers/%/ready: tests/peers/%.txt | .venv/ready-dev
	@rm -rf $(@D) && $(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@site='import site; print(site.getsitepackages()[0])' \
		&& $(BIN)/python -c "$$site" > "$$($(@D)/bin/python -c "$$site")/main.pth"
	@touch $@

test-peers: .venv/ready-dev peers  ## others' readers on our shards, each in its own environment
	@$(BIN)/python -m pytest -q -m peers tests/peers $(ARGS)

.venv-docs/ready: requirements-docs.lock
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $< && touch $@

docs: .venv-docs/ready  ## the docs as a site, build/site/index.html; a link that leads nowhere fails (in .venv-docs, once 155 MB)
	@rm -rf build/site && .venv-docs/bin/python docs/site.py && .venv-docs/bin/zensical build --strict

lint: .venv/ready-dev  ## format check, lint, types, import contracts
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: .venv/ready-dev  ## measure us and the peers in one run
	@$(BIN)/python -m benchmarks

# The whole first; the others are parts of it, at its versions. It keeps the versions of the present lock where they
# still fit; ARGS=--upgrade takes the newest.
compile = $(BIN)/uv pip compile pyproject.toml --group checkout --extra s3 --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate --no-header --quiet

lock: .venv/ready  ## pin what pyproject.toml asks for, for every platform, in requirements*.lock (needs the network)
	@$(compile) --extra dev --output-file requirements-dev.lock $(ARGS)
	@rm -f requirements.lock requirements-train.lock
	@$(compile) --constraint requirements-dev.lock --output-file requirements.lock
	@$(compile) --constraint requirements-dev.lock --extra train --output-file requirements-train.lock
	@$(BIN)/uv pip compile --group docs --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --quiet --output-file requirements-docs.lock $(ARGS)
	@grep -c == requirements*.lock  # how many packages each pins

licences: .venv/ready-dev  ## write docs/licences.md anew, from what is installed
	@$(BIN)/python docs/licences.py

clean:  ## remove the sample's data and runs (not .venv)
	rm -rf data/sample data/sample_web runs/sample data/experiment_web data/pictures_web
