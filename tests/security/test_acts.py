"""Acts: whatever is done in a person's name asks for that act first, before anything is read, written or started."""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.access.actor import Actor
from phi3kit.access.keys import KeyStore
from phi3kit.access.roles import Act, may
from phi3kit.batch import jobs as batch_jobs
from phi3kit.batch.run import run_batch
from phi3kit.conversations.shared import SharedConversations
from phi3kit.core.profiles import Role
from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.deployment.azure import plan_bundle
from phi3kit.deployment.servers import ScoringServers
from phi3kit.endpoints import client, connections, invocations, probe, targets
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.evaluation.evaluate import evaluate
from phi3kit.evaluation.jobs import EvaluationJobs
from phi3kit.evaluation.promote import promote
from phi3kit.packaging import plan
from phi3kit.packaging.build import build
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.jobs import BuildJobs
from phi3kit.packaging.sources import find
from phi3kit.packaging.sources.find import EMBEDDED
from phi3kit.tracking import registry
from phi3kit.tracking.upkeep import clean_up
from phi3kit.usage import prices
from phi3kit.usage.allowances import everybody
from tests.conftest import settings_for
from tests.support.in_app import app_on, forget

NONE: Any = None  # what an act that is refused must not look at
EMBEDDED_BUILD = BuildRequest(("onnx",), EMBEDDED, "int4")


class Asked(Exception):
    """Which act was asked for first."""


@dataclass(frozen=True)
class Asking(Actor):
    """An actor whom any act stops, saying which."""

    def require(self, act: Act) -> None:
        raise Asked(act)


EVE = Asking("eve", "nobody")
CONTEXT: Any = type("Context", (), {"actor": EVE})()
# Where: the act, and one call. What they are given is nothing: the act comes before it.
ACTS: dict[str, tuple[Act, Callable[[Path], Any]]] = {
    "batch/jobs.py BatchJobs.start": ("batch", lambda home: batch_jobs.BatchJobs(settings_for(home)).start(NONE, EVE)),
    "batch/jobs.py keep_upload": ("batch", lambda home: batch_jobs.keep_upload("a.csv", b"", EVE, settings_for(home))),
    "batch/run.py run_batch": ("batch", lambda home: run_batch(NONE, EVE, NONE, NONE)),
    "conversations/shared.py SharedConversations.share": (
        "keep",
        lambda home: SharedConversations(home).share("c", EVE),
    ),
    "conversations/shared.py SharedConversations.open": (
        "read",
        lambda home: SharedConversations(home).open("t", EVE),
    ),
    "deployment/azure.py plan_bundle": ("serve", lambda home: plan_bundle("models:/m-1", EVE, NONE)),
    "deployment/servers.py ScoringServers.start": (
        "serve",
        lambda home: ScoringServers(NONE).start("models:/m-1", EVE),
    ),
    "deployment/servers.py ScoringServers.stop": ("serve", lambda home: ScoringServers(NONE).stop("models:/m-1", EVE)),
    "deployment/servers.py ScoringServers.ask": ("invoke", lambda home: ScoringServers(NONE).ask(NONE, "{}", EVE)),
    "endpoints/client.py ask": ("talk", lambda home: client.ask(NONE, NONE, CONTEXT, NONE)),
    "endpoints/client.py stream": ("talk", lambda home: next(iter(client.stream(NONE, NONE, CONTEXT, NONE)))),
    "endpoints/connections.py save_connection": ("connect", lambda home: connections.save_connection(NONE, EVE, NONE)),
    "endpoints/connections.py remove_connection": (
        "connect",
        lambda home: connections.remove_connection("a", EVE, NONE),
    ),
    "endpoints/invocations.py score": ("invoke", lambda home: invocations.score(NONE, "{}", EVE)),
    "endpoints/probe.py probe": ("connect", lambda home: probe.probe(NONE, {}, EVE, NONE)),
    "endpoints/targets.py endpoint_of": ("talk", lambda home: targets.endpoint_of(NONE, NONE, {}, EVE, NONE)),
    "endpoints/workers.py WorkerPool.unload": ("serve", lambda home: WorkerPool(NONE).unload("models:/m-1", EVE)),
    "evaluation/evaluate.py evaluate": ("evaluate", lambda home: evaluate(NONE, EVE, NONE, NONE)),
    "evaluation/jobs.py EvaluationJobs.start": (
        "evaluate",
        lambda home: EvaluationJobs(settings_for(home)).start(NONE, EVE),
    ),
    "evaluation/promote.py promote": ("register", lambda home: promote(NONE, "phi3", "champion", EVE, NONE)),
    "packaging/build.py build": ("build", lambda home: build("onnx", NONE, EMBEDDED_BUILD, EVE, NONE, NONE)),
    "packaging/jobs.py BuildJobs.start": (
        "build",
        lambda home: BuildJobs(settings_for(home)).start(EMBEDDED_BUILD, EVE),
    ),
    "packaging/plan.py allow": ("build", lambda home: plan.allow(EMBEDDED_BUILD, EVE)),
    "packaging/plan.py make_plan": ("build", lambda home: plan.make_plan(EMBEDDED_BUILD, NONE, EVE, NONE)),
    "packaging/sources/find.py find_source": ("build", lambda home: find.find_source(EMBEDDED, EVE, NONE)),
    "packaging/sources/find.py allow_source": ("build", lambda home: find.allow_source(EMBEDDED, EVE)),
    "tracking/registry.py register": ("register", lambda home: registry.register("models:/m-1", "a", EVE, NONE)),
    "tracking/registry.py set_alias": ("register", lambda home: registry.set_alias("a", "b", 1, EVE, NONE)),
    "tracking/registry.py remove_alias": ("register", lambda home: registry.remove_alias("a", "b", EVE, NONE)),
    "tracking/registry.py describe": ("register", lambda home: registry.describe("a", 1, "b", EVE, NONE)),
    "tracking/registry.py set_tags": ("register", lambda home: registry.set_tags("a", 1, {}, EVE, NONE)),
    "tracking/registry.py delete_version": ("delete", lambda home: registry.delete_version("a", 1, EVE, NONE)),
    "tracking/registry.py delete_model": ("delete", lambda home: registry.delete_model("models:/m-1", EVE, NONE)),
    "tracking/upkeep.py clean_up": ("administer", lambda home: clean_up(EVE, NONE, 1.0)),
    "usage/allowances.py everybody": ("administer", lambda home: everybody(EVE, NONE, NONE)),
    "usage/prices.py save": ("administer", lambda home: prices.save(EVE, NONE, {})),
}
# What the acts above are made of; nothing else calls them.
PARTS = {
    "batch/answering.py Answering.__init__", "batch/spark.py SparkAnswering.__init__", "endpoints/lanes.py Lane.__init__",
    "jobs/job_folder.py run_as_job", "jobs/job_list.py JobList.launch", "batch/journal.py Journal.__init__", "batch/request.py key_of",
}  # fmt: skip
# They ask whether something is the actor's own.
OWN = {
    "batch/jobs.py find_upload", "conversations/shared.py SharedConversations.token",
    "conversations/shared.py SharedConversations.end", "evaluation/results.py seen_by", "jobs/job_folder.py Job.belongs_to",
    *(f"jobs/job_list.py JobList.{name}" for name in ("anothers", "cancel", "find", "latest", "seen_by")), "usage/details.py turn_details",
}  # fmt: skip


def acting() -> set[str]:
    """Every public function of the kit that is told who acts."""
    kit = PROJECT_ROOT / "phi3kit"
    found = set()
    for path in kit.rglob("*.py"):
        place = path.relative_to(kit)
        if place.parts[0] not in ("ui", "cli", "access"):
            found |= {f"{place.as_posix()} {name}" for name in _names(ast.parse(path.read_text("utf-8")).body)}
    return found


def _names(body: list[ast.stmt], within: str = "") -> set[str]:
    found = set()
    for node in body:
        if isinstance(node, ast.ClassDef):
            found |= _names(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            told = [*node.args.args, *node.args.kwonlyargs]
            if any(each.annotation and ast.unparse(each.annotation) in ("Actor", "TurnContext") for each in told):
                found.add(within + node.name)
    return found


class TestKit:
    def test_every_function_that_is_told_who_acts_is_in_the_table(self):
        assert acting() == set(ACTS) | PARTS | OWN

    @pytest.mark.parametrize("where", ACTS)
    def test_asks_for_its_act_before_all_else(self, where: str, tmp_path: Path):
        act, call = ACTS[where]
        with pytest.raises(Asked) as caught:
            call(tmp_path)
        assert caught.value.args == (act,)

    def test_keys_are_made_listed_for_all_and_revoked_by_who_may(self, tmp_path: Path):
        store = KeyStore(tmp_path)
        for call in (lambda: store.create("eve", "", EVE), lambda: store.list(EVE, everybody=True)):
            with pytest.raises(Asked):
                call()


def _page_with_a_button() -> None:
    import streamlit as st

    from phi3kit.ui.shared import permissions

    def on_click(word: str) -> None:
        st.session_state["done"] = word

    if permissions.button("Do it", "serve", key="do", on_click=on_click, args=("it",)):
        st.markdown("pressed")


class TestPage:
    @pytest.mark.parametrize("role", get_args(Role))
    def test_a_switched_off_button_does_nothing_for_a_client_that_presses_it_all_the_same(
        self, role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("phi3kit.ui.shared.resources.actor", lambda: Actor("eve", role))
        with app_on(tmp_path):
            app = AppTest.from_function(_page_with_a_button).run()
            button = app.button(key="do")
            button.proto.disabled = False  # the runner presses no other one; a client of one's own presses any
            app = button.click().run()
        assert ("done" in app.session_state, [each.value for each in app.markdown] == ["pressed"]) == (
            may(role, "serve"),
            may(role, "serve"),
        )
        forget()
