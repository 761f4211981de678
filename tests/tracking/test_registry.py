"""The registry: names, versions, aliases, tags, and what is deleted with what. A real store, and models without weights."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from phi3kit.core.errors import ModelNotFound, RequestInvalid
from phi3kit.core.settings import Settings
from phi3kit.tracking import registry as registry
from phi3kit.tracking.deleted_models import DeletedModels
from phi3kit.tracking.logged_models import list_models
from phi3kit.tracking.store import open_store
from tests.support.actors import ADMIN
from tests.support.samples import artifacts_of, logged_model, new_store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return new_store(tmp_path)


def only(settings: Settings) -> registry.RegisteredModel:
    (found,) = registry.list_registered(settings)
    return found


class TestRegister:
    def test_versions_are_listed_newest_first_with_everything_about_them(self, settings: Settings) -> None:
        first, second = logged_model(settings), logged_model(settings, size_bytes=2000)
        registry.register(first, "phi3", ADMIN, settings, description=" The small one. ", aliases=["champion"])
        made = registry.register(second, "phi3", ADMIN, settings)
        assert (made.model_uri, made.logged_model, made.version) == ("models:/phi3/2", second, 2)
        found = only(settings)
        assert found.name == "phi3"
        assert [(each.version, each.aliases, each.description, each.logged_model) for each in found.versions] == [
            (2, (), "", second),
            (1, ("champion",), "The small one.", first),
        ]
        assert [each.model.size_bytes for each in found.versions if each.model] == [2000, 1000]

    def test_a_version_may_be_registered_by_another_versions_alias(self, settings: Settings) -> None:
        first = logged_model(settings)
        registry.register(first, "phi3", ADMIN, settings, aliases=["champion"])
        copied = registry.register("models:/phi3@champion", "phi3-production", ADMIN, settings)
        assert (copied.model_uri, copied.logged_model) == ("models:/phi3-production/1", first)

    @pytest.mark.parametrize("name", ["a/b", "a:b", ""])
    def test_a_name_that_the_registry_refuses_is_said(self, settings: Settings, name: str) -> None:
        with pytest.raises(RequestInvalid, match="cannot be registered"):
            registry.register(logged_model(settings), name, ADMIN, settings)
        assert registry.list_registered(settings) == []

    def test_models_of_other_programs_are_not_listed(self, settings: Settings, tmp_path: Path) -> None:
        client = open_store(settings)
        client.create_registered_model("sklearn-model")
        client.create_model_version("sklearn-model", (tmp_path / "elsewhere").as_uri())
        registry.register(logged_model(settings), "phi3", ADMIN, settings)
        assert only(settings).name == "phi3"


class TestAliases:
    def test_an_alias_points_to_one_version_at_a_time(self, settings: Settings) -> None:
        for _ in range(2):
            registry.register(logged_model(settings), "phi3", ADMIN, settings, aliases=["champion", "mine"])
        assert [each.aliases for each in only(settings).versions] == [("champion", "mine"), ()]
        registry.set_alias("phi3", "champion", 1, ADMIN, settings)
        registry.remove_alias("phi3", "mine", ADMIN, settings)
        assert [each.aliases for each in only(settings).versions] == [(), ("champion",)]

    @pytest.mark.parametrize("alias", ["7", "v7", "latest", "a b", "", "x" * 300])
    def test_an_alias_that_no_uri_could_use_is_refused(self, settings: Settings, alias: str) -> None:
        registry.register(logged_model(settings), "phi3", ADMIN, settings)
        with pytest.raises(RequestInvalid, match="cannot be set"):
            registry.set_alias("phi3", alias, 1, ADMIN, settings)
        assert only(settings).versions[0].aliases == ()

    def test_a_version_that_was_deleted_meanwhile_is_said(self, settings: Settings) -> None:
        registry.register(logged_model(settings), "phi3", ADMIN, settings)
        with pytest.raises(ModelNotFound, match="may have been deleted"):
            registry.set_alias("phi3", "champion", 9, ADMIN, settings)


class TestAnnotate:
    def test_tags_are_set_changed_and_removed(self, settings: Settings) -> None:
        registry.register(logged_model(settings), "phi3", ADMIN, settings)
        registry.set_tags("phi3", 1, {"team": "blue", "stage": "test"}, ADMIN, settings)
        registry.set_tags("phi3", 1, {"team": "red"}, ADMIN, settings)
        assert only(settings).versions[0].tags == (("team", "red"),)

    def test_a_tag_without_a_name_is_refused(self, settings: Settings) -> None:
        registry.register(logged_model(settings), "phi3", ADMIN, settings)
        with pytest.raises(RequestInvalid, match="tags cannot be saved"):
            registry.set_tags("phi3", 1, {"": "x"}, ADMIN, settings)

    def test_name_and_version_have_a_description_each(self, settings: Settings) -> None:
        registry.register(logged_model(settings), "phi3", ADMIN, settings)
        registry.describe("phi3", None, "All of them", ADMIN, settings)
        registry.describe("phi3", 1, "This one", ADMIN, settings)
        assert (only(settings).description, only(settings).versions[0].description) == ("All of them", "This one")


class TestDelete:
    def test_a_deleted_version_takes_its_aliases_and_leaves_the_logged_model(self, settings: Settings) -> None:
        uri = logged_model(settings)
        registry.register(uri, "phi3", ADMIN, settings, aliases=["champion"])
        registry.register(uri, "phi3", ADMIN, settings)
        registry.delete_version("phi3", 1, ADMIN, settings)
        assert [each.version for each in only(settings).versions] == [2]
        assert open_store(settings).get_registered_model("phi3").aliases == {}
        assert artifacts_of(uri, settings).is_dir()

    def test_the_name_goes_with_its_last_version(self, settings: Settings) -> None:
        registry.register(logged_model(settings), "phi3", ADMIN, settings)
        registry.delete_version("phi3", 1, ADMIN, settings)
        assert list(open_store(settings).search_registered_models()) == []
        with pytest.raises(ModelNotFound, match="Version 1 of phi3 cannot be deleted"):
            registry.delete_version("phi3", 1, ADMIN, settings)

    def test_a_deleted_model_takes_its_files_and_its_versions_and_no_others(self, settings: Settings) -> None:
        gone, kept = logged_model(settings), logged_model(settings)
        registry.register(gone, "phi3", ADMIN, settings, aliases=["champion"])
        registry.register(kept, "phi3", ADMIN, settings)
        registry.register(gone, "only-here", ADMIN, settings)
        was = next(model for model in list_models(settings) if model.model_uri == gone)
        registry.delete_model("models:/phi3@champion", ADMIN, settings)
        (remembered,) = DeletedModels(settings.home).all()
        assert remembered == replace(was, size_bytes=None, files_gone=True)
        assert [model.model_uri for model in list_models(settings)] == [kept]
        assert [(each.name, [v.version for v in each.versions]) for each in registry.list_registered(settings)] == [
            ("phi3", [2])
        ]
        assert not artifacts_of(gone, settings).parent.exists()
        assert artifacts_of(kept, settings).is_dir()
        with pytest.raises(ModelNotFound, match="may have been deleted"):
            registry.delete_model(gone, ADMIN, settings)

    def test_a_folder_that_is_not_the_models_own_is_left_alone(self, settings: Settings, tmp_path: Path) -> None:
        uri = logged_model(settings)
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "MLmodel").write_text("somebody else's")
        with sqlite3.connect(settings.home / "mlflow.db") as database:
            database.execute("update logged_models set artifact_location = ?", (precious.as_uri(),))
        registry.delete_model(uri, ADMIN, settings)
        assert list_models(settings) == []
        assert (precious / "MLmodel").is_file()

    def test_a_model_whose_files_are_gone_is_listed_as_such_and_can_be_deleted(self, settings: Settings) -> None:
        uri = logged_model(settings)
        (artifacts_of(uri, settings) / "MLmodel").unlink()
        artifacts_of(uri, settings).rmdir()
        assert [model.files_gone for model in list_models(settings)] == [True]
        registry.delete_model(uri, ADMIN, settings)
        assert list_models(settings) == []


class TestChoices:
    def test_aliases_come_first_then_versions_then_logged_models(self, settings: Settings) -> None:
        first, second = logged_model(settings), logged_model(settings)
        registry.register(first, "phi3", ADMIN, settings, aliases=["champion"])
        registry.register(second, "phi3", ADMIN, settings)
        found = registry.choices(list_models(settings), registry.list_registered(settings))
        assert [(each.model_uri, each.label, each.model.model_uri) for each in found] == [
            ("models:/phi3@champion", "phi3@champion · version 1", first),
            ("models:/phi3/2", "phi3 · version 2", second),
            ("models:/phi3/1", "phi3 · version 1", first),
            (second, "", second),
            (first, "", first),
        ]

    def test_a_version_whose_logged_model_was_deleted_in_mlflow_is_listed_but_no_choice(
        self, settings: Settings
    ) -> None:
        uri = logged_model(settings)
        registry.register(uri, "phi3", ADMIN, settings, aliases=["champion"])
        open_store(settings).delete_logged_model(uri.removeprefix("models:/"))
        assert [(each.version, each.model) for each in only(settings).versions] == [(1, None)]
        assert registry.choices(list_models(settings), registry.list_registered(settings)) == []
