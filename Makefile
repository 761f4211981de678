# The doors: setup, run, test, bench, soak, mlflow-ui, audit, train. Each does all the set-up it needs.
# The newest Python that the pins were tried with comes first.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
PORT ?= 8501
ADDRESS ?= 127.0.0.1
MLFLOW_PORT ?= 5000
MINUTES ?= 20
VENV := .venv
BIN := $(VENV)/bin
# What the app needs is enough for most doors; tests and the soak need tools beside it.
APP := $(VENV)/.app-installed
TOOLS := $(VENV)/.tools-installed

.PHONY: setup run test bench soak mlflow-ui audit train

setup: $(TOOLS)

$(APP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "phi3kit needs Python 3.11 or newer. Install it, or name it: make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@# torch first and alone: where a CPU build is offered, it must not be passed over for another one.
	$(BIN)/pip install --quiet $$(grep '^torch==' requirements.txt)
	$(BIN)/pip install --quiet -r requirements.txt
	@touch $@

$(TOOLS): $(APP) requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements.txt -r requirements-dev.txt
	@touch $@

run: $(APP)
	$(BIN)/streamlit run streamlit_app.py --server.port $(PORT) --server.address $(ADDRESS) --server.fileWatcherType none

test: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@# Two processes, a file each at a time: most tests wait for processes that they start.
	$(BIN)/pytest -n 2 --dist loadfile

mlflow-ui: $(APP)
	MLFLOW_DISABLE_TELEMETRY=$${MLFLOW_DISABLE_TELEMETRY:-true} $(BIN)/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$${PHI3KIT_HOME:-$(CURDIR)/.phi3kit}/mlflow.db}" --port $(MLFLOW_PORT)

bench: $(APP)
	$(BIN)/python -m bench
	$(BIN)/python -m bench.batch
	$(BIN)/python -m bench.usage

soak: $(TOOLS)
	$(BIN)/python -m bench.soak --minutes $(MINUTES)

audit: $(APP)
	@# In an environment of their own: what checks the packages is none of them.
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet pip-audit==2.9.0 pip-licenses==5.5.5
	$(VENV)/audit/bin/pip-licenses --python $(BIN)/python --order license
	$(VENV)/audit/bin/pip-audit --requirement requirements.txt --no-deps --disable-pip

train: $(APP)
	$(BIN)/python -m phi3kit.embedded.train
