"""What stays: choices and tables on other pages and after a reload, the marks on Home; and what a link may not say."""

from typing import Any

from streamlit.testing.v1 import AppTest

from phi3kit.batch.jobs import keep_upload
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.tracking.logged_models import list_models
from tests.conftest import Built
from tests.support.actors import ADMIN, admin
from tests.support.in_app import label_of, open_page, read, words


def opened(name: str, **link: Any) -> AppTest:
    """A page by its link."""
    app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=300).run()
    for parameter, value in link.items():
        app.query_params[parameter] = value
    app = app.switch_page(f"pages/{name}.py").run()
    assert not app.exception, app.exception
    return app


def toasts(app: AppTest) -> list[str]:
    return [read(each.value) for each in app.toast]


def chooser() -> None:
    import streamlit as st

    from phi3kit.ui.shared import elements

    given = st.session_state
    given["found"] = elements.choose_from("Model", given["options"], "model", default=given["default"])


class TestChoices:
    def test_a_chosen_model_stays_chosen_while_another_page_is_open(self, store: Settings) -> None:
        app = open_page("signatures")
        usual = app.selectbox(key="sig_A").value
        app.selectbox(key="sig_A").select_index(1).run()
        chosen = app.selectbox(key="sig_A").value
        assert chosen != usual
        app.switch_page("pages/chat.py").run()
        app.switch_page("pages/signatures.py").run()
        assert app.selectbox(key="sig_A").value == chosen

    def test_what_another_page_has_chosen_stands_though_there_is_a_newer_default(self, store: Settings) -> None:
        older = list_models(store)[1]
        app = open_page("deploy")
        assert app.selectbox(key="deploy_model").value != older.model_uri
        app.switch_page("pages/models.py").run()
        app.session_state["models_view"] = "Logged models"
        app.session_state["logged_models_chosen"] = older.model_uri
        app = app.run()
        app = next(each for each in app.button if each.key == f"deploy_{older.model_uri}").click().run()
        assert not app.exception, app.exception
        app.switch_page("pages/deploy.py").run()
        assert app.selectbox(key="deploy_model").value == older.model_uri

    def test_a_newer_default_takes_the_place_of_the_default_and_not_of_a_choice(self) -> None:
        app = AppTest.from_function(chooser, default_timeout=300)

        def found(options: str, default: str) -> str:
            app.session_state["options"], app.session_state["default"] = list(options), default
            app.run()
            return str(app.session_state["found"])

        assert found("ab", "a") == "a"
        assert found("cab", "c") == "c", "nobody chose a"
        app.selectbox[0].set_value("b").run()
        assert found("dcab", "d") == "b"
        assert found("dca", "d") == "d", "b is gone"
        assert found("edca", "e") == "e", "nobody chose d"

    def test_the_default_that_was_chosen_by_hand_stays_too(self) -> None:
        app = AppTest.from_function(chooser, default_timeout=300)
        app.session_state["options"], app.session_state["default"] = ["a", "b"], "a"
        app.run()
        app.selectbox[0].set_value("b").run()
        app.selectbox[0].set_value("a").run()
        app.session_state["options"], app.session_state["default"] = ["c", "a", "b"], "c"
        app.run()
        assert app.session_state["found"] == "a"


class TestLinks:
    def test_values_that_do_not_exist_are_said_and_dropped(self, store: Settings) -> None:
        app = opened("deploy", deploy_route="pigeons")
        assert toasts(app) == [
            "The link asks for 'pigeons' under Serve with. It cannot be chosen here and was ignored."
        ]
        assert app.segmented_control(key="deploy_route").value == "phi3kit serve"
        assert toasts(opened("deploy", deploy_route="Compose")) == []
        assert toasts(opened("tour", tour_at="99. Nowhere")) == [
            "The link asks for '99. Nowhere' under Step. It cannot be chosen here and was ignored."
        ]

    def test_a_step_of_the_tour_is_in_its_link(self, store: Settings) -> None:
        app = open_page("tour")
        third = app.selectbox(key="tour_at").options[2]
        assert opened("tour", tour_at=third).selectbox(key="tour_at").value == 2


class TestTables:
    def test_an_uploaded_table_is_in_the_address_of_the_person_who_uploaded_it(self, store: Settings) -> None:
        mine = keep_upload("mine.csv", b"message\nHello\n", ADMIN, store)
        app = opened("batch", table=mine.parent.name)
        assert "mine.csv was uploaded before and is still chosen." in words(app).replace("*", "")
        assert "Answer 1 row" in map(label_of, app.button)
        app.switch_page("pages/chat.py").run()
        app.switch_page("pages/batch.py").run()
        assert "mine.csv was uploaded before and is still chosen." in words(app).replace("*", "")

    def test_anothers_table_and_nonsense_are_not_found(self, store: Settings) -> None:
        anothers = keep_upload("theirs.csv", b"message\nHello\n", admin("maria"), store)
        for identifier in (anothers.parent.name, "../../..", "0" * 16):
            app = opened("batch", table=identifier)
            assert toasts(app) == ["The link's table does not exist, or somebody else uploaded it."], identifier
            assert "It needs one column of prompts" in words(app)


class TestMarks:
    def test_a_step_that_was_taken_is_marked_in_a_new_tab_too(self, store: Settings, built: Built) -> None:
        assert "2. Signatures** :gray-badge[next]" in words(open_page("home"))
        open_page("signatures")
        assert "2. Signatures** :green-badge[:material/check: done]" in words(open_page("home"))
