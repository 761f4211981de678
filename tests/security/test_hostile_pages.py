"""Hostile names on pages: what another program wrote into the store breaks no page, and is drawn as it is."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Block

from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.endpoints.connections import Connection, save_connection
from phi3kit.evaluation.results import DIGEST_TAG
from phi3kit.tracking import registry
from phi3kit.tracking.store import EVALUATIONS_EXPERIMENT, USAGE_EXPERIMENT, experiment_id, open_store
from tests.support.actors import ADMIN
from tests.support.in_app import app_on, errors, open_page
from tests.support.samples import artifacts_of, logged_model, new_store

PAGES = sorted(path.stem for path in (PROJECT_ROOT / "pages").glob("*.py"))
NAME = "**pwned** <b>x $y$ `z` [l] #h"  # MLflow takes neither / nor : in the name of a registered model
TEXT = f"{NAME} [pwned](http://evil.example/) ![pwned](http://evil.example/x.png) :red[pwned] :smile: &amp; -> x"
ACTIVE = re.compile(r"(?<!\\)(?:\*\*pwned|\[pwned|&amp|:smile:|:red\[pwn)|(?<![\\`])<b>x| -> ")
_MARKDOWN = ("body", "label", "help", "title", "caption")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = new_store(tmp_path_factory.mktemp("hostile"))
    client = open_store(settings)
    uri = logged_model(settings, source=TEXT)
    registry.register(uri, NAME, ADMIN, settings, description=TEXT, aliases=["champion"])
    client.set_logged_model_tags(
        uri.removeprefix("models:/"),
        {"phi3kit.context_tokens": "x", "phi3kit.size_bytes": "x", "phi3kit.precision": TEXT},
    )
    client.set_model_version_tag(NAME, "1", "pwned: __x__", TEXT)
    odd = logged_model(settings)
    for each in (uri, odd):
        (artifacts_of(each, settings) / "MLmodel").write_text("x")
    client.set_logged_model_tags(odd.removeprefix("models:/"), {"phi3kit.wrapper": TEXT})
    for wrapper in (TEXT, "onnx"):
        tags = dict.fromkeys(
            ("model_uri", "user", "origin", "interface", "finish_reason", "conversation_id", "turn_id", "error_code"),
            TEXT,
        )
        run = client.create_run(
            experiment_id(settings, USAGE_EXPERIMENT),
            tags={f"phi3kit.{name}": tag for name, tag in {**tags, "wrapper": wrapper, "turn_id": wrapper}.items()},
        ).info.run_id
        for name in ("prompt_tokens", "completion_tokens", "total_tokens", "cached_prompt_tokens", "duration_s"):
            client.log_metric(run, name, 2 if name == "total_tokens" else 1)
        client.log_param(run, "temperature", "x")
        client.set_terminated(run)
    run = client.create_run(
        experiment_id(settings, EVALUATIONS_EXPERIMENT),
        tags={"phi3kit.model_uri": TEXT, "phi3kit.wrapper": "onnx", DIGEST_TAG: TEXT},
    ).info.run_id
    for name in (
        "exact",
        "contains",
        "word_f1",
        "completion_tokens",
        "latency_s",
        "latency_p95_s",
        "questions",
        "failed",
    ):
        client.log_metric(run, name, 1)
    for name, text in {"model_uri": TEXT, "data": TEXT, "at_once": "1"}.items():
        client.log_param(run, name, text)
    client.set_terminated(run)
    save_connection(Connection("lab", "http://lab.example", model=TEXT), ADMIN, settings)
    return settings


@pytest.fixture(scope="module")
def app_with_it(store: Settings) -> Iterator[Settings]:
    with app_on(store.home):
        yield store


def drawn(app: AppTest) -> Iterator[str]:
    """What Streamlit reads as Markdown on a page."""

    def walk(block: Block) -> Iterator[Any]:
        for each in block.children.values():
            yield each.proto
            if isinstance(each, Block):
                yield from walk(each)

    def texts(message: Any) -> Iterator[str]:
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING and isinstance(value, str) and field.name in _MARKDOWN:
                yield value
            elif field.type == field.TYPE_MESSAGE and hasattr(value, "ListFields"):
                yield from texts(value)

    for proto in walk(app._tree):
        # A code block is drawn as it is.
        if proto is not None and hasattr(proto, "ListFields") and proto.DESCRIPTOR.name != "Code":
            yield from texts(proto)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_draws_it_as_it_is(app_with_it: Settings, name: str) -> None:
    app = open_page(name)
    assert [each for each in drawn(app) if ACTIVE.search(each)] == []
    # Neither the model's files nor the evaluation's table are real: that is said, and nothing else is wrong.
    assert all("cannot be read" in each or "did not answer" in each for each in errors(app))


@pytest.mark.parametrize("route", ["mlflow models serve", "Docker image", "systemd", "Compose"])
def test_deploy_draws_every_route(app_with_it: Settings, route: str) -> None:
    app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=300)
    app.session_state["deploy_route"] = route
    app = app.run().switch_page("pages/deploy.py").run()
    assert not app.exception
    assert [each for each in drawn(app) if ACTIVE.search(each)] == []
    assert "pwned" not in "".join(each.value for each in app.code)


def test_the_canary_would_be_seen() -> None:
    def page() -> None:
        import streamlit as st

        st.caption("a **pwned**")
        st.button("[pwned](http://x)")

    assert len([each for each in drawn(AppTest.from_function(page).run()) if ACTIVE.search(each)]) == 2
