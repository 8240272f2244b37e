# make run      set up, then run the main job      make test     set up, then lint and test
# make help     list all targets
SHELL := /bin/sh
PYTHON ?=
DATA ?=
CONFIG ?=
SET ?=
RECIPE ?=
PARTS ?=
K ?= 10
DOCS ?=
RUN_FOLDER ?=
WORKERS ?= 2
# Recipes use "$$DATA" and so on, which the shell takes from the environment, so that spaces, quotes
# and dollar signs in a value are kept as typed.
override DATA := $(value DATA)
override CONFIG := $(value CONFIG)
override SET := $(value SET)
override RECIPE := $(value RECIPE)
override DOCS := $(value DOCS)
override RUN_FOLDER := $(value RUN_FOLDER)
override PARTS := $(value PARTS)
override K := $(value K)
override WORKERS := $(value WORKERS)
# The environment defines USER and may define VERSION: use them only if given on the command line.
override VERSION_ID := $(if $(filter command,$(firstword $(origin VERSION))),$(value VERSION))
override USER_ID := $(if $(filter command,$(firstword $(origin USER))),$(value USER))
export DATA CONFIG SET RECIPE DOCS RUN_FOLDER PARTS K WORKERS VERSION_ID USER_ID
AND_SET = $(if $(SET),--set "$$SET")
# One option per value; values are separated by spaces, and the shell does not expand them.
PART_OPTIONS = set -f; set --; for part in $$PARTS; do set -- "$$@" --part "$$part"; done
USER_OPTIONS = set -f; set --; for user in $$USER_ID; do set -- "$$@" --user "$$user"; done

VENV := .venv$(if $(PYTHON),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
READY := $(VENV)/.ready
HOROVOD := $(VENV)/.horovod
TWOTOWER := $(BIN)/twotower
PYTEST := $(BIN)/python -m pytest
BENCH_SERVING = $(BIN)/python -m benchmarks.serving $(if $(DATA),--data "$$DATA") $(if $(RUN_FOLDER),--run "$$RUN_FOLDER")

.PHONY: help env helm run test lint types format test-slow test-replicas horovod test-horovod train-horovod serve query update timeline publish rollback versions lab doctor lock bench-main bench-serving bench-train bench-quality bench-own-data bench-faults bench-two-stage bench-scale soak checks figures clean compare tune docs docs-reference

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: DATA=<folder or zip> CONFIG=<name or file> RECIPE=<name or auto> SET='key=value ...' PYTHON=python3.10"

$(READY): requirements/*.txt requirements/make_env.sh pyproject.toml
	@requirements/make_env.sh $(VENV) $(PYTHON)
	@touch $(READY)

# Without MPI and NCCL, unless the environment asks for them, as HOROVOD_GPU_OPERATIONS=NCCL does.
$(HOROVOD): $(READY)
	@$(BIN)/python -c 'import horovod' 2>/dev/null || { \
	    echo "compiling Horovod, which takes about 10 minutes on 2 cores"; \
	    HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
	    HOROVOD_WITHOUT_MPI="$${HOROVOD_WITHOUT_MPI-1}" $(VENV)-tools/bin/uv pip install --quiet \
	    --python $(BIN)/python --no-deps --no-build-isolation -r requirements/horovod.txt; }
	@touch $(HOROVOD)

env: $(READY) ## create the virtual environment

helm: $(VENV)-tools/bin/helm ## get helm, with which the tests render docker/helm/

$(VENV)-tools/bin/helm: requirements/helm.txt requirements/get_helm.sh | $(READY)
	@requirements/get_helm.sh $(VENV)-tools

run: $(READY) ## run all steps, from data to recommendations by Triton
	@$(TWOTOWER) run $(if $(DATA),--data "$$DATA") $(if $(CONFIG),--config "$$CONFIG") $(if $(RECIPE),--recipe "$$RECIPE") $(AND_SET)

lint: types ## check lint and format with ruff, types with mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(READY) ## check types with mypy
	@# Through links: mypy does not follow the mapping of folders to packages in pyproject.toml.
	@mkdir -p $(VENV)/typed/twotower && cp twotower/*.* $(VENV)/typed/twotower/ && \
	    for room in models pipelines serving workflows; do ln -sfn "$$PWD/$$room" $(VENV)/typed/twotower/; done
	@MYPYPATH=$(VENV)/typed $(BIN)/mypy -p twotower -p benchmarks

.PHONY: docs-reference
docs-reference: $(READY) ## write docs/configuration.md, the list of all settings
	@$(BIN)/python -m twotower.pipelines.reference docs/configuration.md

format: $(READY) ## fix lint and format with ruff
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

test: lint ## lint, then the tests; DATA=<folder> adds those on real data
	@# Three processes on two cores, because a fifth of the time goes to waiting for servers.
	@$(PYTEST) -n 3 --dist loadfile -m "not slow" $(if $(DATA),--data="$$DATA")

test-slow: $(READY) ## the slow tests
	@$(PYTEST) -m slow $(if $(DATA),--data="$$DATA")

test-replicas: $(READY) ## test servers behind nginx under load: a publish, a killed server
	@$(PYTEST) tests/serving/triton/test_replica.py tests/docker/test_nginx.py tests/pipelines/test_replicas.py

horovod: $(HOROVOD) ## compile and install Horovod, for training by several workers (10 minutes)

test-horovod: $(HOROVOD) ## the tests of training by several workers, with two on this machine
	@$(PYTEST) tests/models/distributed tests/pipelines/steps/test_train_workers.py

train-horovod: $(HOROVOD) ## train the last run, or RUN_FOLDER, with several workers: [WORKERS=2]
	@PATH="$$PWD/$(BIN):$$PATH" horovodrun -np "$$WORKERS" twotower train $(if $(RUN_FOLDER),--run "$$RUN_FOLDER") $(AND_SET)

serve: $(READY) ## serve the last run until Ctrl-C
	@$(TWOTOWER) serve

query: $(READY) ## ask the server for recommendations: make query USER=42 [K=10]
	@test -n "$$USER_ID" || { echo "usage: make query USER=42 [K=10]"; exit 2; }
	@$(USER_OPTIONS); $(TWOTOWER) query "$$@" -k "$$K"

update: $(READY) ## learn from new data and publish: make update DATA=<folder> [RUN_FOLDER=<run>]
	@test -n "$$DATA" || { echo "usage: make update DATA=<folder> [RUN_FOLDER=<run>]"; exit 2; }
	@$(TWOTOWER) update --data "$$DATA" $(if $(RUN_FOLDER),--run "$$RUN_FOLDER") $(AND_SET)

timeline: $(READY) ## how long each step of the last `make run` took
	@$(TWOTOWER) timeline

docs: ## the documentation as a site in site/, with a reference of the code
	@test -x .venv-docs/bin/mkdocs || python3 -m venv .venv-docs
	@.venv-docs/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements/docs.txt
	@# By links, since the folders are packages of `twotower` only by the mapping in pyproject.toml.
	@mkdir -p .venv-docs/src/twotower && cp twotower/*.* .venv-docs/src/twotower/ && \
	    for room in models pipelines serving workflows; do ln -sfn "$$PWD/$$room" .venv-docs/src/twotower/; done
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build
	@echo "site/index.html"

compare: $(READY) ## compare variants: make compare CONFIG=<name or file> [DATA=<folder>]
	@test -n "$$CONFIG" || { echo "usage: make compare CONFIG=<name in configs/compare, or file> [DATA=<folder>] [DOCS=docs] [SET='key=value ...']"; exit 2; }
	@$(TWOTOWER) compare --config "$$CONFIG" $(if $(DATA),--data "$$DATA") $(if $(DOCS),--docs "$$DOCS") $(AND_SET)

tune: $(READY) ## search for better settings: make tune CONFIG=<name or file> [DATA=<folder>]
	@test -n "$$CONFIG" || { echo "usage: make tune CONFIG=<name in configs/tune, or file> [DATA=<folder>]"; exit 2; }
	@$(TWOTOWER) tune --config "$$CONFIG" $(if $(DATA),--data "$$DATA")

publish: $(READY) ## publish the newest version, or VERSION=<n>; a running server loads it
	@$(TWOTOWER) publish $(if $(VERSION_ID),--version "$$VERSION_ID")

rollback: $(READY) ## publish the previously published version again
	@$(TWOTOWER) rollback

versions: $(READY) ## list the versions: which is published, which the server uses
	@$(TWOTOWER) versions

lab: $(READY) ## open the notebooks in Jupyter Lab on 127.0.0.1; DATA=<folder> as for run
	@$(if $(DATA),TWOTOWER_DATA="$$(realpath "$$DATA")") $(BIN)/jupyter lab --ip=127.0.0.1 notebooks

doctor: $(READY) ## check the installation
	@$(TWOTOWER) doctor

lock: $(READY) ## write the lock files from requirements/*.in
	@cd requirements && ../$(VENV)-tools/bin/uv pip compile --quiet --no-header --no-annotate \
	    --python-version 3.11 cpu-py311.in -o cpu-py311.txt
	@cd requirements && ../$(VENV)-tools/bin/uv pip compile --quiet --no-header --no-annotate \
	    --python-version 3.10 --override container-py310.override container-py310.in \
	    -o container-py310.txt
	@cd requirements && ../$(VENV)-tools/bin/uv pip compile --quiet --no-header --no-annotate \
	    --python-version 3.10 docs.in -o docs.txt
	@cd requirements && ../$(VENV)-tools/bin/uv pip compile --quiet --no-header --no-annotate \
	    --python-version 3.12 serve.in -o serve.txt

bench-main: $(READY) ## benchmark the main job on fresh clones (an hour): DATA=<folder> [PARTS=run]
	@test -n "$$DATA" || { echo "usage: make bench-main DATA=<folder> [PARTS=run]"; exit 2; }
	@$(PART_OPTIONS); $(BIN)/python -m benchmarks.main_job --data "$$DATA" "$$@"

bench-serving: $(READY) ## benchmark the served model (20 minutes): DATA=<folder> or RUN_FOLDER=<run> [PARTS=speed]
	@test -n "$$DATA$$RUN_FOLDER" || { echo "usage: make bench-serving DATA=<folder> [PARTS=speed]"; exit 2; }
	@$(PART_OPTIONS); $(BENCH_SERVING) "$$@"

bench-train: $(READY) ## benchmark training against stock Merlin and TFRS (two hours): DATA=<folder> [PARTS=speed]
	@test -n "$$DATA" || { echo "usage: make bench-train DATA=<folder> [PARTS=speed]"; exit 2; }
	@$(VENV)-tools/bin/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements/bench.txt
	@$(PART_OPTIONS); $(BIN)/python -m benchmarks.training --data "$$DATA" "$$@"

bench-quality: $(READY) ## measure the most accurate towers against EASE, and the grids (two hours): DATA=<folder with ml-1m/ and ml-100k/> [PARTS=frozen]
	@test -n "$$DATA" || { echo "usage: make bench-quality DATA=<folder with ml-1m/ and ml-100k/> [PARTS=frozen]; PARTS=evaluation compares with ml-1m/recbole_split.parquet"; exit 2; }
	@$(PART_OPTIONS); $(BIN)/python -m benchmarks.quality --data "$$DATA" "$$@"

bench-own-data: $(READY) ## measure what people do with their own data (20 minutes): [DATA=<folder with ml-1m/ and ml-100k/>] [PARTS=ids]
	@$(PART_OPTIONS); $(BIN)/python -m benchmarks.own_data $(if $(DATA),--data "$$DATA") "$$@"

bench-faults: $(READY) ## test kills, concurrent commands, memory (half an hour, synthetic data) [PARTS=kills]
	@$(PART_OPTIONS); $(BIN)/python -m benchmarks.faults "$$@"

bench-scale: $(READY) ## measure large, synthetic data (three hours, 60 GB of disk): [PARTS=index]
	@$(PART_OPTIONS); $(BIN)/python -m benchmarks.scale "$$@"

bench-two-stage: $(READY) ## measure filters, diversity and the ranking model (half an hour): DATA=<folder> or RUN_FOLDER=<run> [PARTS=filters]
	@test -n "$$DATA$$RUN_FOLDER" || { echo "usage: make bench-two-stage DATA=<folder> [PARTS=filters]"; exit 2; }
	@$(VENV)-tools/bin/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements/bench.txt
	@$(PART_OPTIONS); $(BIN)/python -m benchmarks.two_stage $(if $(DATA),--data "$$DATA") $(if $(RUN_FOLDER),--run "$$RUN_FOLDER") "$$@"

soak: $(READY) ## query with 16 clients for ten minutes: DATA=<folder> or RUN_FOLDER=<run>
	@test -n "$$DATA$$RUN_FOLDER" || { echo "usage: make soak DATA=<folder>"; exit 2; }
	@$(BENCH_SERVING) --part soak

checks: $(READY) ## list the results of the benchmarks, and which miss their target
	@$(BIN)/python -m benchmarks.report

figures: $(READY) ## fill the tables in README.md and docs/ from benchmarks/results/
	@$(BIN)/python -m benchmarks.figures

clean: ## remove environments and caches, but not runs and data
	rm -rf .venv .venv-* .ruff_cache .pytest_cache *.egg-info

include docker/docker.mk
