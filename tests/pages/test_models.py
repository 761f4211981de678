"""The Models page through Streamlit's own test runner: a real store, real workers."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.core.settings import Settings
from phi3kit.tracking import registry as registry
from phi3kit.tracking.logged_models import list_models
from phi3kit.ui.shared import resources
from phi3kit.ui.shared import words as words_of
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.in_app import app_on, click, errors, label_of, open_page, words
from tests.support.samples import artifacts_of, copy_of_store
from tests.support.waiting import has_ended


@pytest.fixture
def store(built: Built, tmp_path: Path) -> Iterator[Settings]:
    """An app on a store of its own in which both wrappers are logged."""
    with app_on(tmp_path):
        yield copy_of_store(built.settings, tmp_path)


def view(name: str) -> AppTest:
    app = open_page("models")
    return next(each for each in app.segmented_control if each.key == "models_view").set_value(name).run()


class TestLoggedModels:
    def test_they_are_listed_with_size_and_versions(self, store: Settings) -> None:
        registry.register(list_models(store)[0].model_uri, "phi3", ADMIN, store, aliases=["champion"])
        table = open_page("models").dataframe[0].value
        assert sorted(table["wrapper"]) == ["onnx", "transformers"]
        assert all(size > 5 for size in table["size"])
        assert [list(each) for each in table["registered as"]] == [["phi3/1 @champion"], []]

    def test_a_model_is_registered_with_an_alias(self, store: Settings) -> None:
        app = open_page("models")
        next(each for each in app.text_input if each.label == "Name in the Model Registry").set_value("team-phi3")
        next(each for each in app.pills if each.label == "Aliases").set_value(["champion"])
        next(each for each in app.button if label_of(each) == "Register").click().run()
        (found,) = registry.list_registered(store)
        assert (found.name, found.versions[0].aliases) == ("team-phi3", ("champion",))
        assert found.versions[0].logged_model == list_models(store)[0].model_uri

    def test_a_name_that_the_registry_refuses_is_explained(self, store: Settings) -> None:
        app = open_page("models")
        next(each for each in app.text_input if each.label == "Name in the Model Registry").set_value("a/b")
        app = click(app, "Register")
        assert "cannot be registered" in "\n".join(errors(app))
        assert registry.list_registered(store) == []

    def test_a_model_is_loaded_seen_among_the_workers_and_unloaded(self, store: Settings) -> None:
        app = click(open_page("models"), "Load")
        assert errors(app) == []
        (status,) = resources.kit().pool.statuses()
        assert (status.state, status.model_uri) == ("ready", list_models(store)[0].model_uri)
        workers = view("Workers")
        shown = {metric.label: metric.value for metric in workers.metric}
        assert shown["Turns"] == "0"
        assert shown["Memory"].endswith("MB")
        assert shown["Active answers"] == "0"
        assert shown["Waiting"] == "0"
        click(workers, "Unload")
        assert has_ended(status.pid)
        assert "No model is loaded." in words(view("Workers"))

    def test_a_model_is_deleted_after_a_confirmation_that_names_what_goes(self, store: Settings) -> None:
        newest, other = list_models(store)
        registry.register(newest.model_uri, "phi3", ADMIN, store, aliases=["champion"])
        app = click(open_page("models"), "Delete")
        assert "phi3/1 @champion" in words(app)
        assert len(list_models(store)) == 2
        app = next(each for each in app.button if each.key == "confirm_delete").click().run()
        assert not app.exception, app.exception
        assert [model.model_uri for model in list_models(store)] == [other.model_uri]
        assert registry.list_registered(store) == []
        assert not artifacts_of(newest.model_uri, store).exists()
        assert resources.model_names() == {
            newest.model_uri: f"{words_of.model_label(newest)} · deleted",
            other.model_uri: words_of.model_label(other),
        }

    def test_a_model_whose_files_are_gone_says_so_and_can_only_be_deleted(self, store: Settings) -> None:
        newest, _ = list_models(store)
        shutil.rmtree(artifacts_of(newest.model_uri, store))
        app = open_page("models")
        assert "Its files are missing" in app.warning[0].value
        assert list(app.dataframe[0].value["state"]) == ["files missing", ""]
        assert next(each for each in app.button if label_of(each) == "Load").disabled

    def test_a_model_that_was_deleted_meanwhile_is_explained(self, store: Settings) -> None:
        app = open_page("models")
        registry.delete_model(list_models(store)[0].model_uri, ADMIN, store)
        app = click(app, "Load")
        assert "There is no model at" in "\n".join(errors(app))


class TestRegistered:
    @pytest.fixture
    def registered(self, store: Settings) -> Settings:
        for model in list_models(store):
            registry.register(model.model_uri, "phi3", ADMIN, store)
        registry.set_alias("phi3", "champion", 1, ADMIN, store)
        return store

    def test_without_one_the_page_leads_to_the_logged_models(self, store: Settings) -> None:
        app = view("Registered")
        assert "No model is registered yet" in words(app)
        assert len(click(app, "Choose a logged model").dataframe) >= 1

    def test_the_champion_moves_at_a_click_and_workers_follow(self, registered: Settings) -> None:
        pool = resources.kit().pool
        before = pool.endpoint("models:/phi3@champion").model_uri
        click(view("Registered"), "Make champion")  # of version 2, the newest
        (found,) = registry.list_registered(registered)
        assert {each.version: each.aliases for each in found.versions} == {2: ("champion",), 1: ()}
        after = pool.endpoint("models:/phi3@champion").model_uri
        assert (before, after) == (found.versions[1].logged_model, found.versions[0].logged_model)

    def test_an_alias_of_ones_own_is_set_and_removed(self, registered: Settings) -> None:
        app = view("Registered")
        next(each for each in app.text_input if each.label == "Custom alias").set_value("staging")
        app = click(app, "Set")
        assert registry.list_registered(registered)[0].versions[0].aliases == ("staging",)
        click(app, "Remove staging")
        assert registry.list_registered(registered)[0].versions[0].aliases == ()

    def test_an_alias_that_is_none_is_explained(self, registered: Settings) -> None:
        app = view("Registered")
        next(each for each in app.text_input if each.label == "Custom alias").set_value("7")
        app = click(app, "Set")
        assert "looks like a version" in "\n".join(errors(app))

    def test_descriptions_and_tags_are_saved(self, registered: Settings) -> None:
        app = view("Registered")
        fields = {each.label: each for each in app.text_area}
        fields["Description of version 2"].set_value("Quantized")
        fields["Description of phi3"].set_value("Our Phi-3")
        fields["Tags"].set_value("team=blue\nstage = test")
        click(app, "Save")
        (found,) = registry.list_registered(registered)
        assert (found.description, found.versions[0].description) == ("Our Phi-3", "Quantized")
        assert found.versions[0].tags == (("stage", "test"), ("team", "blue"))

    def test_a_tag_without_a_value_sign_is_explained_and_nothing_is_saved(self, registered: Settings) -> None:
        app = view("Registered")
        next(each for each in app.text_area if each.label == "Tags").set_value("blue")
        next(each for each in app.text_area if each.label == "Description of phi3").set_value("changed")
        assert "has no =" in "\n".join(errors(click(app, "Save")))
        assert registry.list_registered(registered)[0].description == ""

    def test_a_version_is_deleted_after_a_confirmation_and_its_model_stays(self, registered: Settings) -> None:
        app = click(view("Registered"), "Delete version")
        next(each for each in app.button if each.key == "confirm_delete").click().run()
        assert [each.version for each in registry.list_registered(registered)[0].versions] == [1]
        assert len(list_models(registered)) == 2


class TestCompare:
    def test_two_models_stand_side_by_side_with_their_differing_fields(self, store: Settings) -> None:
        app = view("Compare")
        facts = app.dataframe[0].value.set_index("")
        assert set(facts.loc["wrapper", ["A", "B"]]) == {"onnx", "transformers"}
        # What other tests asked these models before is in the store, too.
        assert re.fullmatch(r"not measured|[\d,]+ tokens/s", facts.loc["speed, median", "A"])
        assert facts.loc["context", "B vs. A"] == "1.00×"
        fields = app.dataframe[1].value
        assert {"prompt", "messages"} <= set(fields["field"])
        assert "same" not in set(fields["verdict"])
