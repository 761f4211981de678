"""Roles and pages, one table: which button, field and list each role finds on every page, and whether it can be used."""

import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.access.roles import Act, may
from phi3kit.core.profiles import Role
from phi3kit.endpoints.worker_process import WorkerStatus
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.evaluation.request import EMBEDDED_NAME
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.writer import write_waiting
from tests.conftest import Built
from tests.pages.test_access import BOB, PAGES, TEAM, page_of
from tests.support.in_app import app_on, label_of, open_page
from tests.support.samples import copy_of_store, evaluation_run, new_store, turn

# Who looks: the profile, the name under which they sign in, and the role that they then have.
WHO: dict[str, tuple[str, str, Role]] = {
    "the one person of a laptop": ("local", "", "admin"),
    "a user of a team": ("team", "bob", "user"),
    "a viewer of a team": ("team", "vera", "viewer"),
    "a stranger": ("public", "", "visitor"),
}
# By page: what can be used by the act that it takes, and what everybody may use. Anything else fails the test.
TABLE: dict[str, tuple[dict[str, Act], set[str]]] = {
    "access": ({"Create a key": "keys", "Clean up": "administer", "Keys of all users": "administer"}, set()),
    "batch": ({"File": "batch"}, set()),
    "build": ({"Build both wrappers": "build"}, set()),
    "chat": (
        {"Connections": "connect", "Conversations": "keep", "Save": "keep", "Ask Phi-3": "talk"},
        {"New chat", "Show the code"},
    ),
    "compare": ({"Connections": "connect", "Ask both": "talk"}, {"Clear", "Separate parameters"}),
    "deploy": ({}, set()),
    "evaluate": ({"Evaluate": "evaluate"}, set()),
    # Without a model: below. The question is offered to who may talk and has no turn yet, perhaps because it is another's.
    "home": ({}, {"Ask it: What is the capital of Spain?"}),
    "models": ({"Delete": "delete", "Register": "register", "Load": "talk"}, {"Talk", "Deploy"}),
    "prompt": (
        {
            "Connections": "connect",
            **dict.fromkeys(("One question", "The chapter's comedian", "assistant", "end", "system", "user"), "talk"),
        },
        {"Send"},  # off while there is no prompt
    ),
    "signatures": ({}, {"Only what differs"}),
    "tour": ({}, {"Back", "Next: Transformer Pipeline: the pipeline"}),
    "usage": ({"Save": "administer"}, {"Refresh"}),
}
KINDS = ("button", "chat_input", "file_uploader", "toggle")


def opened(who: str) -> AppTest:
    profile, name, _ = WHO[who]
    return page_of(name, "home") if profile == "team" else open_page("home")


def environment(who: str) -> dict[str, str]:
    return TEAM if WHO[who][0] == "team" else {"PHI3KIT_PROFILE": WHO[who][0]}


def offered(app: AppTest) -> dict[str, bool]:
    """What a page offers, by its label or placeholder, and whether it is switched on."""
    found = [each.proto for kind in KINDS for each in (app if kind == "chat_input" else app.main).get(kind)]
    found = [each for each in found if "usage_conversation_" not in each.id]  # one for each conversation that is shown
    return {label_of(each) if getattr(each, "label", "") else each.placeholder: not each.disabled for each in found}


@pytest.mark.parametrize("who", WHO)
def test_every_page_offers_what_the_role_may_do_and_nothing_else(who: str, built: Built, tmp_path: Path):
    settings = copy_of_store(built.settings, tmp_path)
    Outbox(tmp_path).add(turn(f"of {who}", at=time.time(), user=WHO[who][1] or "local"))
    assert write_waiting(settings) == 1  # Usage has something to show
    role, wrong = WHO[who][2], dict[str, set[str]]()
    with app_on(tmp_path, **environment(who)):
        app = opened(who)
        for page in PAGES:
            app = app.switch_page(f"pages/{page}.py").run()
            by_act, for_all = TABLE[page]
            there = {label: on for label, on in offered(app).items() if label not in for_all}
            wrong[page] = {label for label, on in there.items() if on} ^ {
                label for label, act in by_act.items() if may(role, act)
            }
            wrong[page] |= set(there) - set(by_act)  # what is new on a page belongs into the table
            wrong[page] |= {each.value for each in app.error}
    assert {page: labels for page, labels in wrong.items() if labels} == {}


@pytest.mark.parametrize("who", WHO)
def test_what_builds_is_off_for_who_may_not_build(who: str, tmp_path: Path):
    new_store(tmp_path)
    with app_on(tmp_path, **environment(who)):
        app = opened(who)
        assert offered(app) == {"Build both wrappers": may(WHO[who][2], "build")}
        app = app.switch_page("pages/tour.py").run()
        app.session_state["tour_at"] = 2
        app = app.run()
        assert offered(app)["Run this step: build it"] is may(WHO[who][2], "build")


@pytest.mark.parametrize("who", WHO)
def test_what_a_worker_printed_is_for_admins_because_others_payloads_may_stand_in_it(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    new_store(tmp_path)
    log = tmp_path / "worker.log"
    log.write_text("extra inputs ['BOBS-CUSTOMER-NUMBER']")
    worker = WorkerStatus("models:/m-1", "onnx", "stopped", 1, None, log, 0.0, ())
    monkeypatch.setattr(WorkerPool, "statuses", lambda pool: [worker])
    with app_on(tmp_path, **environment(who)):
        app = opened(who).switch_page("pages/models.py").run()
        app = next(each for each in app.segmented_control if each.key == "models_view").set_value("Workers").run()
        shown = [each.value for each in app.code]
    assert shown[0] == "models:/m-1"
    assert any("BOBS-CUSTOMER-NUMBER" in each for each in shown) is may(WHO[who][2], "administer")


@pytest.mark.parametrize("who", WHO)
def test_evaluations_are_their_askers_admins_and_those_of_the_questions_that_ship_everybodys(who: str, tmp_path: Path):
    settings = new_store(tmp_path)
    for user, data in ((BOB, "bobs.csv"), ("ada", "adas.csv"), ("ada", EMBEDDED_NAME)):
        evaluation_run(settings, {}, {"data": data}, user=user)
    with app_on(tmp_path, **environment(who)):
        app = opened(who).switch_page("pages/evaluate.py").run()
        shown = {text for table in app.dataframe for text in table.value.astype(str).to_numpy().ravel()}
    seen = {name for name in ("bobs.csv", "adas.csv", EMBEDDED_NAME) if any(name in text for text in shown)}
    assert (
        seen
        == {
            "the one person of a laptop": {"bobs.csv", "adas.csv", EMBEDDED_NAME},
            "a user of a team": {"bobs.csv", EMBEDDED_NAME},
            "a viewer of a team": {EMBEDDED_NAME},
            "a stranger": {EMBEDDED_NAME},
        }[who]
    )
