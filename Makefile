PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
TTH ?= benchmarks/data/tth

.PHONY: demo serve test lint docs bench-history notebooks clean install

install: $(VENV)/.installed

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

test: install
	sh tests/install_servers.sh
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python -m mkdocs build

bench-history: install
	$(BIN)/python benchmarks/history.py

notebooks: install
	$(BIN)/python notebooks/execute.py

clean:
	rm -rf $(VENV) runs build *.egg-info
