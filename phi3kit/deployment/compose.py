"""Compose: phi3kit for a team in containers: the app, MLflow's server on PostgreSQL, and a worker with one model.

Knows Docker Compose and how to repeat a build there. Runs nothing.
"""

import re
import shlex

import yaml

from phi3kit.core.records import PRECISIONS
from phi3kit.core.settings import INSTALLED
from phi3kit.deployment.recipes import Recipe, RecipeFile, RecipeStep
from phi3kit.packaging.sources.find import EMBEDDED
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.tracking.model_uris import is_plain

_SOURCE = re.compile(r"(?!-)[^:\x00-\x1f\x7f-\x9f\u2028\u2029]*")  # a colon would name what a volume is mounted as
POSTGRES_DRIVER = "psycopg2-binary==2.9.13"

DOCKERFILE = f"""# phi3kit: app, worker and MLflow's server are one image with three commands.
FROM python:3.11-slim
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \\
    MLFLOW_DISABLE_TELEMETRY=true ORT_DISABLE_TELEMETRY=1
WORKDIR /app
COPY requirements.txt .
# torch first and alone. For an image without CUDA's gigabytes add: --index-url https://download.pytorch.org/whl/cpu
RUN pip install "$(grep '^torch==' requirements.txt)"
RUN pip install -r requirements.txt {POSTGRES_DRIVER}
COPY streamlit_app.py .
COPY .streamlit/config.toml .streamlit/
COPY pages pages
COPY phi3kit phi3kit
RUN useradd --create-home phi3kit && mkdir /data /artifacts && chown phi3kit /data /artifacts
USER phi3kit
ENV PHI3KIT_HOME=/data
EXPOSE 8501
CMD ["streamlit", "run", "streamlit_app.py", "--server.address", "0.0.0.0", "--server.port", "8501", \\
     "--server.fileWatcherType", "none"]
"""

DOCKERIGNORE = """# Nothing goes into the image but what is listed here.
*
!requirements.txt
!streamlit_app.py
!.streamlit/config.toml
!pages/*.py
!phi3kit/**/*.py
!phi3kit/embedded/questions.csv
!phi3kit/embedded/corpus/*.toml
!phi3kit/embedded/corpus/*.csv
!phi3kit/embedded/model/*.json
!phi3kit/embedded/model/model.safetensors
!phi3kit/ui/shared/icon.png
!phi3kit/ui/shared/logo.svg
"""

_COMPOSE = """# phi3kit for a team. Passwords and the worker's key come from .env; nothing listens beyond this machine:
# put a proxy with TLS before ports 8501 and 8000. People sign in: .streamlit/secrets.toml says where, with its section
# [auth], and may hold PHI3KIT_ADMINS and the other lists of docs/settings.md.
name: phi3kit

x-phi3kit: &phi3kit
  build: .
  image: phi3kit
  restart: unless-stopped

services:
  db:
    image: postgres:17
    restart: unless-stopped
    environment:
      POSTGRES_USER: mlflow
      POSTGRES_DB: mlflow
      POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?set it in .env}
    volumes:
      - db:/var/lib/postgresql/data
    healthcheck:
      test: [CMD-SHELL, pg_isready --username mlflow]
      interval: 5s
      retries: 20

  mlflow:
    <<: *phi3kit
    command: >-
      mlflow server --host 0.0.0.0 --port 5000 --artifacts-destination /artifacts
      --allowed-hosts mlflow:5000,localhost:5000,127.0.0.1:5000
    environment:
      MLFLOW_BACKEND_STORE_URI: postgresql://mlflow:${POSTGRES_PASSWORD:?set it in .env}@db:5432/mlflow
    volumes:
      - artifacts:/artifacts
    ports:
      - 127.0.0.1:5000:5000
    depends_on:
      db:
        condition: service_healthy
    healthcheck:
      test: [CMD, python, -c, "import urllib.request as r; r.urlopen('http://127.0.0.1:5000/health')"]
      interval: 5s
      retries: 30

  app:
    <<: *phi3kit
    environment:
      PHI3KIT_PROFILE: team
      MLFLOW_TRACKING_URI: http://mlflow:5000
    volumes:
      - data:/data
      - ./.streamlit/secrets.toml:/app/.streamlit/secrets.toml:ro
    ports:
      - 127.0.0.1:8501:8501
    depends_on:
      mlflow:
        condition: service_healthy

  worker:
    <<: *phi3kit
    # An alias (models:/NAME@champion) is followed when the worker starts: docker compose restart worker.
    command: @COMMAND@
    environment:
      PHI3KIT_PROFILE: team
      MLFLOW_TRACKING_URI: http://mlflow:5000
      PHI3KIT_API_KEY: ${PHI3KIT_API_KEY:?set it in .env}
      PHI3KIT_HOST_NAMES: worker
    volumes:
      - worker-data:/data
    ports:
      - 127.0.0.1:8000:8000
    depends_on:
      mlflow:
        condition: service_healthy

volumes:
  db:
  artifacts:
  data:
  worker-data:
"""

_NOT_A_SOURCE = (
    "The command that builds the model there is left out: its source is not clearly a folder or a repository. "
    "Build it in that store yourself, and register it under the name that the worker serves."
)
_SECRETS = """(umask 077; python3 - > .env <<'END'
import secrets
print(f"POSTGRES_PASSWORD={secrets.token_hex(16)}")
print(f"PHI3KIT_API_KEY={secrets.token_urlsafe(24)}")
END
)"""


def compose(model: LoggedModel, registered_as: str | None) -> Recipe:
    """App, MLflow's server, PostgreSQL and a worker in containers.

    registered_as: the model's name in the containers' own store, where it is built again.
    """
    named = registered_as is not None and is_plain(f"models:/{registered_as}/1")
    name = registered_as if registered_as and named else f"phi3-{model.wrapper}"
    command = ["python", "-m", "phi3kit", "serve", f"models:/{name}/1", "--host", "0.0.0.0", "--port", "8000"]  # noqa: S104
    build = _build(model, name)
    return Recipe(
        "Compose",
        "Everything for a team on one machine: the app, MLflow's server on PostgreSQL, and a worker with a key.",
        (
            RecipeStep("Make the passwords, beside the files below in the project's folder", _SECRETS),
            RecipeStep(
                "Start the store and the app", "docker compose up --build --detach db mlflow app", needs="docker"
            ),
            *([RecipeStep("Build the same model in that store", build, needs="docker")] if build else []),
            RecipeStep("Start the worker", "docker compose up --detach worker", needs="docker"),
        ),
        (
            RecipeFile("compose.yaml", "yaml", _COMPOSE.replace("@COMMAND@", _flow(command))),
            RecipeFile("Dockerfile", "dockerfile", DOCKERFILE),
            RecipeFile(".dockerignore", "text", DOCKERIGNORE),
        ),
        (
            "The containers have their own store, so the model is built there again from the same weights."
            if build
            else _NOT_A_SOURCE,
            "People sign in, so first write .streamlit/secrets.toml as the app's sign-in page shows it, readable by the user 1000.",
            *(["The image is made from a checkout: clone phi3kit's repository first."] if INSTALLED else []),
        ),
    )


def _flow(words: list[str]) -> str:
    """A list in one line of YAML. Compose reads a dollar sign as a variable's, unless it is doubled."""
    return yaml.safe_dump(words, default_flow_style=True, allow_unicode=True, width=1_000).strip().replace("$", "$$")


def _is_plain_folder(source: str) -> bool:
    """Whether an absolute path names a folder and nothing else: not the root, and nothing on the way there."""
    *way, last = source.split("/")[1:]
    return last != "" and not {"", ".", ".."} & {*way, last}


def _build(model: LoggedModel, name: str) -> str | None:
    """The command; None when the model was built from what is not plainly a folder, or a name."""
    folder = model.source.startswith("/")
    if not _SOURCE.fullmatch(model.source) or (folder and not _is_plain_folder(model.source)):
        return None
    command = ["docker", "compose", "run", "--rm"]
    command += ["--volume", f"{model.source}:/source:ro"] if folder else []
    command += ["app", "python", "-m", "phi3kit", "build", "--wrapper", model.wrapper]
    command += ["--source", "/source" if folder else model.source or EMBEDDED]
    command += ["--precision", model.precision] if model.precision in PRECISIONS else []
    return shlex.join([*command, "--register", name])
