PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run test check fmt lint types imports bench openapi docs verify-image clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; about half a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . --group test --group check --group bench
	@touch $@

run: $(STAMP) ## start the demo: five services and the gateway
	@$(BIN)/python -m demo

# The tests start hundreds of processes: each would compile every module again where the environment forbids to keep byte code.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(STAMP) ## run every test
	@$(BIN)/python -m pytest -n 4 --dist worksteal -q

check: fmt-check lint types imports ## formatting, lint, types and import rules

fmt: $(STAMP) ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix-only --quiet .

fmt-check: $(STAMP)
	@$(BIN)/ruff format --check .

lint: $(STAMP) ## lint
	@$(BIN)/ruff check .

types: $(STAMP) ## check types
	@$(BIN)/mypy

imports: $(STAMP) ## check that imports point one way
	@$(BIN)/lint-imports --no-cache

bench: $(STAMP) ## measure against the peers (takes minutes)
	@$(BIN)/python -m bench

openapi: $(STAMP) ## write openapi/ from the demo's document, and copy the document for Kubernetes
	@$(BIN)/anabranch openapi demo/gateway.yaml --output openapi/demo.json
	@cp demo/gateway.yaml deploy/kubernetes/overlays/demo/gateway.yaml

docs: $(STAMP) ## write the generated parts of docs/
	@$(BIN)/python -m anabranch.describe.document_reference docs/reference.md
	@$(BIN)/python -m anabranch.observe.catalogue docs/metrics.md

verify-image: ## build the container image and check that it runs (needs root, buildah, runc, debootstrap)
	@deploy/verify-image

clean: ## remove everything that was built
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build *.egg-info
