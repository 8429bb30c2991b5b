# The verbs of this project. All but help and clean first see to it that the machine is ready (make setup).
.DEFAULT_GOAL := help
.PHONY: help setup demo test hunt check bench golden docs proto lock clean
BIN := .venv/bin
# Python does not need its hash seed, bytecode or terminal to behave the same everywhere.
export PYTHONDONTWRITEBYTECODE := 1

help:     ## what the verbs do
	@awk -F': .*## ' '/^[a-z]+: .*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:    ## everything a fresh Debian machine needs: packages, .venv; quick when nothing is missing
	@tools/setup

demo: setup ## the stages of Star on virtual hosts, every cell tried; KEEP=1 stays up, STAGE=3 is one alone (needs root)
	@$(BIN)/felix lab demo $(if $(KEEP),--keep) $(if $(STAGE),--stage $(STAGE))

test: setup ## all tests, also on the real kernel, etcd and BIRD (needs root for those)
	@tools/test

hunt: setup ## generated tests with other examples than make test has; ROUNDS=20 goes on longer (needs root)
	@tools/hunt $(or $(ROUNDS),1)

check: setup ## style, types, layers, pure and shell, generated documents
	@tools/check

bench:    ## figures as JSON, with the floor measured in the same run (needs root)
	@tools/setup nsd dnsperf
	@$(BIN)/python -m tests.bench
	@$(BIN)/python -m tests.bench.dns

golden: setup ## rewrite expected files of the golden tests
	@$(BIN)/python -m pytest -q tests/golden --rewrite-golden

docs: setup ## rewrite generated documents
	@$(BIN)/python -m tools.documents

proto: setup ## rewrite what is generated from felix/datastore/rpc/etcd.proto
	@$(BIN)/python -m grpc_tools.protoc -I. --pyi_out=. --descriptor_set_out=felix/datastore/rpc/etcd.desc felix/datastore/rpc/etcd.proto

lock: setup ## renew requirements.lock to the newest versions that pyproject.toml allows
	@tools/lock

clean:    ## remove everything that can be made again
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
