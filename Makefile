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
.PHONY: help setup sample-web queries shards train sql report test test-all peers test-peers lint bench lock licences clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## / - /' | sort

setup: .venv/ready  ## make .venv with the locked packages (about 2 minutes, 6.6 GB, mostly torch)

# Every file that pip takes must have a hash of requirements.lock; the project itself brings nothing along.
.venv/ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; run make PYTHON=/path/to/a/newer/python"; exit 2; }
	@echo "Setting up .venv: about 2 minutes and 6.6 GB, once."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

sample-web: .venv/ready  ## build the miniature web in data/sample_web
	@$(BIN)/python -m pipeline.sample_web build $(SAMPLE_WEB)

queries: .venv/ready sample-web  ## build the sample's query list from the miniature encyclopedia
	@$(BIN)/python -m query_list build configs/queries/sample.yaml

shards: .venv/ready $(if $(filter $(SAMPLE),$(CONFIG)),sample-web queries)  ## crawl to shards: CONFIG=file OUT=dir ARGS="--section.key value"
	@$(BIN)/python -m pipeline run $(CONFIG) $(OUTPUT) $(ARGS)

train: .venv/ready $(if $(wildcard data/sample/shards/manifest.json),,shards)  ## train a small CLIP on the shards: TRAIN=config ARGS="..."
	@$(BIN)/python -m training run $(TRAIN) $(ARGS)

sql: .venv/ready  ## ask the data set: Q="select ..." or Q=funnel, balance, failures, hosts, languages, image_sizes
	@$(BIN)/python -m pipeline sql $(CONFIG) "$(Q)" $(OUTPUT) $(ARGS)

report: .venv/ready  ## write the HTML data card
	@$(BIN)/python -m pipeline report $(CONFIG) $(OUTPUT) $(ARGS)

# Two workers, since many tests wait: for time-outs, for processes, for a Ray. ARGS="-n 0" goes without.
test: .venv/ready  ## the default tests
	@$(BIN)/python -m pytest -q -n 2 $(ARGS)

test-all: .venv/ready  ## all tests that need no GPU, slow ones too
	@$(BIN)/python -m pytest -q -m 'not gpu and not benchmark and not peers' $(ARGS)

PEERS := open_clip datasets img2dataset

peers: $(PEERS:%=.venv-peers/%/ready)  ## make the side environments of other readers (about a minute, 1.3 GB)

.venv-peers/%/ready: tests/peers/%.txt | .venv/ready
	@rm -rf $(@D) && $(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

# open_clip's trainer differs from the main environment in one package: that one stands behind it, torch and all.
.venv-peers/open_clip/ready: tests/peers/open_clip.txt | .venv/ready
	@rm -rf $(@D) && $(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@site='import site; print(site.getsitepackages()[0])' \
		&& $(BIN)/python -c "$$site" > "$$($(@D)/bin/python -c "$$site")/main.pth"
	@touch $@

test-peers: .venv/ready peers  ## others' readers on our shards, each in its own environment
	@$(BIN)/python -m pytest -q -m peers tests/peers $(ARGS)

lint: .venv/ready  ## format check, lint, types, import contracts
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: .venv/ready  ## measure us and the peers in one run
	@$(BIN)/python -m benchmarks

# It keeps the versions of the present lock where they still fit; ARGS=--upgrade takes the newest.
UV := .venv-lock/bin/uv

$(UV): | .venv/ready
	@$(BIN)/python -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

lock: $(UV)  ## pin what pyproject.toml asks for, for every platform, in requirements.lock (needs the network)
	@$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock $(ARGS)

licences: .venv/ready  ## write docs/licences.md anew, from what is installed
	@$(BIN)/python docs/licences.py

clean:  ## remove the sample's data and runs (not .venv)
	rm -rf data/sample data/sample_web runs/sample
