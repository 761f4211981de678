"""Model URIs: an alias is followed, a version leads to its logged model, and what leads nowhere is said."""

from pathlib import Path

import pytest

from phi3kit.core.errors import ModelNotFound
from phi3kit.core.settings import Settings
from phi3kit.packaging.wrappers.log import MODEL_NAMES
from phi3kit.tracking.model_uris import canonical
from phi3kit.tracking.registry import register, set_alias
from phi3kit.tracking.store import open_store
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.samples import logged_model, new_store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return new_store(tmp_path)


class TestCanonical:
    def test_an_alias_is_followed_and_followed_again_when_it_moves(self, settings: Settings) -> None:
        first, second = logged_model(settings), logged_model(settings)
        register(first, "phi3", ADMIN, settings, aliases=["champion"])
        register(second, "phi3", ADMIN, settings)
        assert canonical("models:/phi3@champion", settings) == first
        set_alias("phi3", "champion", 2, ADMIN, settings)
        assert canonical("models:/phi3@champion", settings) == second
        assert (canonical("models:/phi3/1", settings), canonical("models:/phi3/2", settings)) == (first, second)

    def test_a_runs_uri_leads_to_the_model_that_the_run_logged(self, built: Built) -> None:
        uri = f"runs:/{built.results['onnx']['run_id']}/{MODEL_NAMES['onnx']}"
        assert canonical(uri, built.settings) == built.uri("onnx")
        other = f"runs:/{built.results['onnx']['run_id']}/something-else"
        assert canonical(other, built.settings) == other

    def test_a_version_of_another_kind_stays_what_it_is(self, settings: Settings, tmp_path: Path) -> None:
        client = open_store(settings)
        client.create_registered_model("older")
        client.create_model_version("older", (tmp_path / "artifacts").as_uri())
        assert canonical("models:/older/1", settings) == "models:/older/1"

    @pytest.mark.parametrize(
        ("uri", "why"),
        [
            ("models:/nobody@champion", "No model is registered as nobody."),
            ("models:/phi3@challenger", "phi3 has the aliases champion, mine."),
            ("models:/phi3/7", "has no version 7 of phi3; it may have been deleted"),
            ("models:/nobody/1", "has no version 1 of nobody"),
            ("models:/", "A model URI begins with models:/ or runs:/."),
            ("/tmp/model", "A model URI begins with models:/ or runs:/."),
        ],
    )
    def test_what_leads_nowhere_is_said_with_what_is_there(self, settings: Settings, uri: str, why: str) -> None:
        register(logged_model(settings), "phi3", ADMIN, settings, aliases=["champion", "mine"])
        with pytest.raises(ModelNotFound) as caught:
            canonical(uri, settings)
        assert why in caught.value.why
        assert uri in caught.value.what
