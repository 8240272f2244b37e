# The same jobs in a container. Variables beside those of the Makefile:
#   ENGINE=docker|podman|buildah   default: the first one installed
#   CPU=1 | CPU=                   docker/Dockerfile.cpu | docker/Dockerfile; default: is there a GPU?
#   BASE, TAG                      base image of Dockerfile.cpu; tag of NVIDIA's Merlin image
#   IMAGE, VOLUMES                 name of the image; where runs and downloads are kept
#   CMD, PORTS                     what docker-run runs, and its ports: none, PORTS=, beside a server
#   BUILD_FLAGS, RUN_FLAGS         more flags for the engine
ENGINE ?= $(firstword $(foreach e,docker podman buildah,$(if $(shell command -v $(e)),$(e))))
CPU ?= $(if $(shell nvidia-smi -L 2>/dev/null),,1)
BASE ?= python:3.11-slim-bookworm
TAG ?= 23.08
IMAGE ?= two-tower:$(if $(CPU),cpu,$(TAG))

# To loopback only: Triton asks nobody who they are, and the versions used here have known holes.
publish = $(foreach port,$(1),-p 127.0.0.1:$(port):$(port))
TRITON_PORTS = 8000 8001 8002
PORTS ?= $(TRITON_PORTS) 8888
VOLUMES ?= -v two-tower-runs:/twotower/runs -v two-tower-data:/twotower/data
CMD ?= twotower run $(if $(DATA),--data $(INPUT)) $(if $(CONFIG),--config "$$CONFIG") $(AND_SET)

INPUT = /input$(if $(filter %.zip,$(lastword $(DATA))),.zip)
MOUNT_DATA = $(if $(DATA),-v "$$(realpath "$$DATA"):$(INPUT):ro")
TTY = $(shell test -t 0 && echo --interactive --tty)
GPUS = $(if $(filter podman,$(ENGINE)),--device nvidia.com/gpu=all,--gpus all)
# Triton's Python backend passes tensors through /dev/shm, of which a container gets 64 MB.
RESOURCES = $(if $(CPU),--shm-size=256m,$(GPUS) --ipc=host)

ifneq ($(ENGINE),buildah)
RUN = $(ENGINE) run --rm $(TTY) $(RESOURCES) $(VOLUMES) $(MOUNT_DATA) $(RUN_FLAGS)
CONTAINER = $(IMAGE)
# A published port arrives at the container's own address, not at its loopback: inside, servers
# listen on all addresses and `publish` decides who reaches them. Outside a container, never so.
LISTEN = 0.0.0.0
WITH_TOKEN = -e JUPYTER_TOKEN
else
# buildah publishes no ports, so its containers share the machine's network, loopback included.
# It runs in a working container, which keeps data and runs until the next docker-build.
RUN = buildah run --network host $(MOUNT_DATA) $(RUN_FLAGS)
publish =
WORKING = $(subst :,-,$(notdir $(IMAGE)))
CONTAINER = $(WORKING) --
LISTEN = 127.0.0.1
WITH_TOKEN = -e JUPYTER_TOKEN="$$JUPYTER_TOKEN" # which it does not take from the environment
endif

.PHONY: docker-base docker-build docker-run docker-test docker-serve docker-lab \
    docker-engine docker-container

docker-build: docker-engine ## the container image; CPU=1 without a GPU, ENGINE=docker|podman|buildah
	$(if $(WORKING),@buildah rm $(WORKING) >/dev/null 2>&1 || true)
	$(ENGINE) build $(BUILD_FLAGS) --tag $(IMAGE) $(if $(CPU), \
	    --file docker/Dockerfile.cpu --build-arg BASE=$(BASE), \
	    --file docker/Dockerfile --build-arg TAG=$(TAG)) .

docker-run: docker-container ## the main job in a container, or CMD='twotower ...'
	$(RUN) $(call publish,$(PORTS)) $(CONTAINER) $(CMD)

docker-test: docker-container ## the tests in a container
	$(RUN) $(CONTAINER) python -m pytest -p no:cacheprovider -n 2 --dist loadfile -m "not slow" \
	    $(if $(DATA),--data=$(INPUT))

docker-serve: docker-container ## serve the container's last run on 127.0.0.1:8000-8002
	$(RUN) $(call publish,$(TRITON_PORTS)) $(CONTAINER) twotower serve --set serving.host=$(LISTEN) \
	    --set serving.http_port=8000 --set serving.grpc_port=8001 --set serving.metrics_port=8002

docker-lab: docker-container ## Jupyter Lab on 127.0.0.1:8888; JUPYTER_TOKEN=<yours>, else a random one
	@export JUPYTER_TOKEN="$${JUPYTER_TOKEN:-$$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}"; \
	echo "http://127.0.0.1:8888/lab/tree/notebooks?token=$$JUPYTER_TOKEN"; \
	$(RUN) $(call publish,8888) $(WITH_TOKEN) $(CONTAINER) \
	    jupyter lab --ip=$(LISTEN) --port=8888 --no-browser

docker-base: ## a bare Debian to build on: BASE=localhost/base:bookworm (root, buildah, debootstrap)
	container=$$(buildah from scratch) && \
	debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,make \
	    bookworm "$$(buildah mount $$container)" $(MIRROR) && \
	buildah run $$container -- apt-get clean && \
	buildah commit --rm $$container localhost/base:bookworm

docker-engine:
	@command -v $(or $(ENGINE),docker) >/dev/null || { \
	    echo "$(or $(ENGINE),no container engine) is not installed: get Docker from"; \
	    echo "https://docs.docker.com/engine/install/, or on Debian and Ubuntu apt-get install"; \
	    echo "podman (or buildah), and say ENGINE=podman if there are several"; exit 2; } >&2

docker-container: docker-engine
	$(if $(WORKING),@buildah inspect --type container $(WORKING) >/dev/null 2>&1 || \
	    buildah from --pull-never --name $(WORKING) $(IMAGE))
