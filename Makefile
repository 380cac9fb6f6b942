# One entry point for people and CI. `make` alone tells what there is.
#
# Built things live in a cache outside the clone when there is one (CACHE), so that a second clone builds in minutes.

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/wasmlet
export CARGO_TARGET_DIR ?= $(CACHE)/target
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINE_SOURCES := Cargo.toml Cargo.lock engine/Cargo.toml $(wildcard engine/src/*.rs engine/src/*/*.rs)
PATHS := src tests bench demos
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo demo-cluster test check bench guests format wheel clean devcluster cluster

help:
	@echo "make demo     run every demo (installs what is missing, builds once)"
	@echo "make demo-cluster   the same in a cluster: a real control plane, wasmlet as its node, and kubectl"
	@echo "make test     run all tests"
	@echo "make check    formatting, lints, types, import contract, guests' sources"
	@echo "make cluster  a real control plane on loopback, until Ctrl-C (docs in devcluster/README.md)"
	@echo "make bench    measure what the README claims"
	@echo "make guests   rebuild the C, Go and AssemblyScript demos and try them"
	@echo "make wheel    the one wheel with both programs, in dist/"
	@echo "make format   write the code as the checks want it"

# --- the environment ---------------------------------------------------------------------------------------------------

$(VENV)/tools: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

# An editable install: Python runs from src/, the engine is built and copied beside the other programs.
$(VENV)/installed: $(VENV)/tools $(ENGINE_SOURCES) wasmlet.data/scripts/wasmlet
	@echo "building the engine (minutes the first time; kept in $(CARGO_TARGET_DIR))"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --editable .
	@touch $@

.PHONY: registry
registry:
	@command -v docker-registry >/dev/null && command -v skopeo >/dev/null || \
	    $(MAKE) --no-print-directory install-registry

.PHONY: install-registry
install-registry:
	@echo "installing Debian's docker-registry and skopeo for the tests"
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get update -qq
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get install -y -qq docker-registry skopeo >/dev/null

# Debian's containerd and runc for the Linux node of the tests, unpacked in the cache: nothing is installed or started.
LINUX_NODE := $(CACHE)/linux-node
LINUX_NODE_PACKAGES := busybox-static containerd containernetworking-plugins runc

.PHONY: linux-node
linux-node: $(LINUX_NODE)/unpacked

$(LINUX_NODE)/unpacked:
	@mkdir -p $(LINUX_NODE)
	@echo "unpacking $(LINUX_NODE_PACKAGES) in $(LINUX_NODE)"
	@cd $(LINUX_NODE) && { apt-get download -qq $(LINUX_NODE_PACKAGES) 2>/dev/null || \
	    { $(if $(filter 0,$(shell id -u)),,sudo) apt-get update -qq && apt-get download -qq $(LINUX_NODE_PACKAGES); }; }
	@for each in $(LINUX_NODE)/*.deb; do dpkg-deb --extract "$$each" $(LINUX_NODE) && rm "$$each"; done
	@touch $@

# kube-apiserver, controller manager, scheduler and etcd in one program; minutes the first time, kept in $(CACHE).
devcluster:
	@devcluster/build.sh >/dev/null

cluster: devcluster
	@exec "$$(devcluster/build.sh)" up --directory $(CACHE)/cluster

# --- what people type --------------------------------------------------------------------------------------------------

demo: $(VENV)/installed
	$(BIN)/python demos/run.py $(BIN)/wasmlet

demo-cluster: $(VENV)/installed registry devcluster
	@$(BIN)/python demos/cluster.py $(BIN)/wasmlet "$$(devcluster/build.sh)"

test: $(VENV)/installed registry devcluster linux-node
	cargo test --release --locked --quiet
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(VENV)/installed
	$(BIN)/ruff format --check --quiet $(PATHS)
	$(BIN)/ruff check --quiet $(PATHS)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python demos/check.py
	test -z "$$(gofmt -l devcluster tests/second-registry)"
	cargo fmt --check
	cargo clippy --release --locked --all-targets --quiet -- -D warnings

bench: $(VENV)/installed
	$(BIN)/python -m bench

guests: $(VENV)/installed
	WASMLET="$(CURDIR)/$(BIN)/wasmlet" $(BIN)/python demos/rebuild.py --check c go assemblyscript

format: $(VENV)/tools
	$(BIN)/ruff format --quiet $(PATHS)
	$(BIN)/ruff check --fix --quiet $(PATHS)
	cargo fmt

wheel: $(VENV)/tools
	$(BIN)/maturin build --release --out dist

clean:
	rm -rf $(VENV) dist
