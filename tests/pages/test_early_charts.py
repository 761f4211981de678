"""Early charts: what the app's HTML tells a browser to fetch."""

from pathlib import Path

import pytest
import streamlit
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from phi3kit.ui.shared.early_charts import EarlyCharts


@pytest.fixture
def client() -> TestClient:
    routes = [
        Route("/health", lambda request: PlainTextResponse("ok")),
        Route("/{page:path}", lambda request: HTMLResponse("<!doctype html>")),
    ]
    return TestClient(EarlyCharts(Starlette(routes=routes)))


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/usage", "modulepreload"), ("/lab/usage", "modulepreload"), ("/chat", "prefetch"), ("/", "prefetch")],
)
def test_a_page_names_the_script_that_streamlit_has(client: TestClient, path: str, kind: str) -> None:
    link = client.get(path).headers["link"]
    name, given, *_ = link.split("; ")
    assert given == f"rel={kind}"
    assert (Path(streamlit.__file__).parent / "static" / name.strip("<>")).is_file()


def test_what_is_no_page_names_none(client: TestClient) -> None:
    assert "link" not in client.get("/health").headers
    assert "link" not in client.get("/media/an-exported-conversation.html").headers
