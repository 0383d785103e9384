PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
TTH ?= benchmarks/data/tth

.PHONY: peers demo serve service-demo test soak servers lint docs bench-history notebooks protos clean install

install: $(VENV)/.installed

# asks for root where Debian's python3-venv is missing, and nowhere else
$(VENV)/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo 'installing python3-venv, which Debian keeps in a package of its own'; \
	  SUDO=$$(command -v sudo || true); $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq python3-venv && \
	  $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: install
	rm -rf $(DEMO)
	$(BIN)/python benchmarks/demo.py --data $(TTH) --out $(DEMO)

serve: install
	test -f $(DEMO)/models/tth/1/saved_model.pb || $(MAKE) demo
	$(BIN)/mlaas4hep-serve --model_name=tth --model_base_path=$(CURDIR)/$(DEMO)/models/tth

service-demo: install
	$(BIN)/python benchmarks/service_demo.py

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

# campaigns in full: kills, mutated files, fuzzing, the corpus; hours
soak: install
	MLAAS4HEP_SOAK=1 $(BIN)/python -m pytest -m soak -s

# what some tests talk to or build with, from the system's packages: asks for root; and a client of others that talks to ours
servers: install
	sh tests/install_servers.sh
	sh tests/install_clients.sh

# loaders of others, each in an environment of its own, which `bench` times beside ours; TORCH may name a smaller one
TORCH ?= torch
peers: .peers/root/.installed .peers/weaver/.installed .peers/f9columnar/.installed
	@echo 'MLAAS4HEP_ROOT_PYTHON=$(CURDIR)/.peers/root/bin/python $(BIN)/python -m pytest tests/streaming/test_beside_root.py'

.peers/root/.installed:
	$(PYTHON) -m venv --clear .peers/root
	.peers/root/bin/pip install --quiet --disable-pip-version-check root tensorflow
	touch $@

.peers/weaver/.installed:
	$(PYTHON) -m venv --clear .peers/weaver
	.peers/weaver/bin/pip install --quiet --disable-pip-version-check $(TORCH) weaver-core
	touch $@

.peers/f9columnar/.installed:
	$(PYTHON) -m venv --clear .peers/f9columnar
	.peers/f9columnar/bin/pip install --quiet --disable-pip-version-check $(TORCH) f9columnar
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python -m mkdocs build

# after a change of a .proto file, of the server or of the client
protos: install
	$(BIN)/pip install --quiet --disable-pip-version-check grpcio-tools
	cd serving/mlaas4hep_serving/proto && $(CURDIR)/$(BIN)/python -m grpc_tools.protoc -I. --include_imports \
	  --descriptor_set_out=descriptors.binpb config.proto tfaas.proto
	$(BIN)/python serving/client/make_protos.py

bench-history: install
	$(BIN)/python benchmarks/history.py

notebooks: install
	$(BIN)/python notebooks/execute.py

clean:
	rm -rf $(VENV) runs build *.egg-info
