# The doors: setup, run, check, test, test-slow, bench, bench-pages, soak, mlflow-ui, audit, train. Each does all the set-up it needs.
# The Python that the pins were tried with most comes first. It is asked, not only looked for: a pyenv has names of Pythons that do not run.
ifndef PYTHON
PYTHON := $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell $(name) -c 'import sys; print(sys.executable)' 2>/dev/null)))
endif
PORT ?= 8501
ADDRESS ?= 127.0.0.1
MLFLOW_PORT ?= 5000
MINUTES ?= 20
# Five processes, a file each at a time, in the order of their names: most tests wait for processes that they start.
PYTEST_OPTIONS ?= -n 5 --dist loadfile --no-loadscope-reorder
# Compiled modules are kept, whatever the shell says: every process of the app and of the tests imports them.
export PYTHONDONTWRITEBYTECODE :=
VENV := .venv
BIN := $(VENV)/bin
# What the app needs is enough for most doors; tests and the soak need tools beside it.
APP := $(VENV)/.app-installed
TOOLS := $(VENV)/.tools-installed
# Environments of their own for the slow tests: one with Spark, and one made from requirements.txt alone.
SPARK := $(VENV)/spark
PUBLIC := $(VENV)/public
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

# Make the environment $(1) with what the app needs.
define install_app
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "phi3kit needs Python 3.11 or newer. Install it, or name it: make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(1)
	$(1)/bin/pip install --quiet --upgrade pip
	@# torch first and alone. PyPI's for Linux brings gigabytes of CUDA: without an NVIDIA GPU it comes from PyTorch's own
	@# index, where that can be reached. One look tells: pip's own time-out would also end a slow download.
	@torch=$$(grep '^torch==' requirements.txt); \
	if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && ! [ -e /proc/driver/nvidia/version ] \
	&& $(1)/bin/python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=3)' $(TORCH_CPU_INDEX)/torch/ 2>/dev/null \
	&& $(1)/bin/pip install --quiet --no-deps --index-url $(TORCH_CPU_INDEX) "$$torch"; then :; \
	else $(1)/bin/pip install --quiet "$$torch"; fi
	$(1)/bin/pip install --quiet -r requirements.txt
endef

.PHONY: setup run check test test-slow bench bench-pages soak mlflow-ui audit train

setup: $(TOOLS)

$(APP): requirements.txt
	$(call install_app,$(VENV))
	@touch $@

$(TOOLS): $(APP) requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements.txt -r requirements-dev.txt
	@touch $@

$(PUBLIC)/.installed: requirements.txt
	$(call install_app,$(PUBLIC))
	@touch $@

# It sees the packages and commands of the other environment; a setuptools of its own would hide the one that torch wants.
$(SPARK)/.installed: $(TOOLS) requirements-spark.txt
	$(PYTHON) -m venv --without-pip $(SPARK)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	"$$($(SPARK)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/app.pth"
	$(BIN)/pip --python $(SPARK)/bin/python install --quiet -r requirements-spark.txt
	@cd $(SPARK)/bin && for each in ../../bin/*; do [ -e "$${each##*/}" ] || ln -s "$$each" .; done
	@touch $@

run: $(APP)
	$(BIN)/streamlit run streamlit_app.py --server.port $(PORT) --server.address $(ADDRESS) --server.fileWatcherType none

check: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# As on each system that it runs on: what one of them lacks is found on all.
	printf '%s\n' linux darwin win32 | xargs -P 3 -I NAME $(BIN)/mypy --platform NAME --cache-dir .mypy_cache/NAME

test: check
	$(BIN)/pytest $(PYTEST_OPTIONS) -m "not slow"

# What needs a package index, Spark, minutes, or an environment without tools: that of a stranger in the public app.
test-slow: $(TOOLS) $(SPARK)/.installed $(PUBLIC)/.installed
	PHI3KIT_TEST_PYTHON=$(CURDIR)/$(PUBLIC)/bin/python $(SPARK)/bin/python -m pytest $(PYTEST_OPTIONS) -m slow

mlflow-ui: $(APP)
	MLFLOW_DISABLE_TELEMETRY=$${MLFLOW_DISABLE_TELEMETRY:-true} MLFLOW_BACKEND_STORE_URI="$${MLFLOW_TRACKING_URI:-sqlite:///$${PHI3KIT_HOME:-$(CURDIR)/.phi3kit}/mlflow.db}" $(BIN)/mlflow ui --port $(MLFLOW_PORT)

bench: $(APP)
	$(BIN)/python -m bench
	$(BIN)/python -m bench.batch
	$(BIN)/python -m bench.usage

bench-pages: $(TOOLS)
	$(BIN)/python -m bench.pages

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
