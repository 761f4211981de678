"""What the page tests share: the app on a data folder, its pages through Streamlit's own test runner, a click on one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.ui.shared import resources

# Every test of a page asks anew which installed packages bring components, and so reads the metadata of them all.
manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)


@contextmanager
def app_on(home: Path, **environment: str) -> Iterator[None]:
    """Pages work on this data folder, and what all sessions of an app share is made anew for it."""
    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in {"PHI3KIT_HOME": str(home), **environment}.items():
            patch.setenv(name, value)
        yield
    forget()


def forget() -> None:
    """End and forget what all sessions of an app share."""
    st.cache_data.clear()
    resources.forget()


def open_page(name: str) -> AppTest:
    app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=300).run()
    if name != "home":
        app = app.switch_page(f"pages/{name}.py").run()
    assert not app.exception, app.exception
    return app


def read(markdown: str) -> str:
    """Markdown as a reader sees it: without the signs that keep a text as it is."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", re.sub(r":color\[\\?(.)\]", r"\1", markdown))


def words(app: AppTest) -> str:
    """All Markdown and captions of a page, as a reader sees them."""
    return read("\n".join([each.value for each in app.markdown] + [each.value for each in app.caption]))


def errors(app: AppTest) -> list[str]:
    """Every error that a page shows: what happened, why, and what to do."""
    return [read(f"{each.proto.title} {each.value}") for each in app.error]


def label_of(button: Any) -> str:
    """A button's label as a reader sees it."""
    return read(re.sub(r"^:\w+\[(.*)\]$", r"\1", button.label))


def click(app: AppTest, label: str) -> AppTest:
    """Click the one button with this label, or whose label begins so."""
    found = [each for each in app.button if label_of(each) == label]
    (button,) = found or [each for each in app.button if label_of(each).startswith(label)]
    app = button.click().run()
    assert not app.exception, app.exception
    return app
