"""Choosing: what the pages' choosers offer, with a real store and with connections beside it."""

from streamlit.testing.v1 import AppTest

from phi3kit.endpoints.connections import Connection, remove_connection, save_connection
from tests.conftest import Built
from tests.support.actors import ADMIN


def chooser() -> None:
    import streamlit as st

    from phi3kit.ui.shared import target_choice

    st.session_state["chosen"] = target_choice.choose_target("test", preferred="onnx")


class TestChooseTarget:
    def test_without_connections_only_the_wrappers_are_offered(self, home: Built) -> None:
        app = AppTest.from_function(chooser, default_timeout=300).run()
        assert list(app.segmented_control[0].options) == ["transformers", "onnx"]
        target = app.session_state["chosen"]
        assert (target.wrapper, target.model_uri, target.context_tokens) == ("onnx", home.uri("onnx"), 4096)
        assert target.connection is None

    def test_a_connection_is_offered_as_remote(self, home: Built) -> None:
        lab = Connection("lab", "http://127.0.0.1:9", model="phi3")
        save_connection(lab, ADMIN, home.settings)
        try:
            app = AppTest.from_function(chooser, default_timeout=300).run()
            app.segmented_control[0].set_value("remote").run()
        finally:
            remove_connection("lab", ADMIN, home.settings)
        target = app.session_state["chosen"]
        assert (target.wrapper, target.label, target.model_uri) == ("remote", "lab · phi3", "remote:lab/phi3")
        assert (target.context_tokens, target.connection) == (None, lab)
