"""Keys follow their users: a role that was lost ends them, and no header gives them another name."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import httpx2
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from phi3kit.access.actor import Actor
from phi3kit.access.keys import MOST_DAYS, USUAL_DAYS, KeyStore
from phi3kit.access.people import People, role_of_key
from phi3kit.access.roles import may
from phi3kit.access.same_origin import ServedNames
from phi3kit.access.sign_in_claims import Person
from phi3kit.core.errors import LimitReached, NotAllowed, RequestInvalid, WorkerFailed
from phi3kit.core.machine import Threads
from phi3kit.core.profiles import Role
from phi3kit.core.settings import RoleLists
from phi3kit.deployment.servers import ScoringServers, ServerStatus, free_port
from phi3kit.usage.request_counts import RequestCounts
from phi3kit.worker.app import WorkerConfig, create_app
from phi3kit.worker.engine import Engine
from phi3kit.worker.request_checks import ROUTES, Keys, LastRequest
from phi3kit.worker.turns import Caller
from tests.conftest import Built, settings_for
from tests.support.actors import ADMIN
from tests.support.samples import copy_of_store
from tests.worker.test_served_keys import BODY, Server, serving

BOB = Person("https://id.example", "bob", "bob@lab.example", ("staff",))
EVERY_ROLE: tuple[Role, ...] = get_args(Role)


@pytest.fixture(scope="module")
def server(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`phi3kit serve` of a team, with a key that its operator shares."""
    settings = replace(copy_of_store(built.settings, tmp_path_factory.mktemp("roles")), profile="team")
    with serving(settings, built.uri("onnx"), PHI3KIT_API_KEY="shared-key") as found:
        yield found


class TestRole:
    @pytest.mark.parametrize("role", EVERY_ROLE)
    def test_a_persons_key_opens_what_their_role_opens_on_every_route(self, server: Server, role: Role):
        people = People(server.settings.home)
        people.note(BOB, "user")
        _, token = KeyStore(server.settings.home).create(BOB.name, "", Actor(BOB.name, "user"))
        people.note(BOB, role)
        for path, rule in ROUTES.items():
            method = "POST" if rule.takes else "GET"
            answer = httpx2.request(
                method, server.url + path, json={} if rule.takes else None,
                headers={"Authorization": f"Bearer {token}"}, timeout=300,
            )  # fmt: skip
            allowed = rule.act is None or may(role, rule.act)
            assert (path, answer.status_code == 403) == (path, not allowed)
            if not allowed:
                assert answer.json()["error"]["code"] == "role_not_allowed"

    def test_a_key_ends_with_the_role_and_comes_back_with_it(self, server: Server):
        people = People(server.settings.home)
        people.note(BOB, "user")
        _, token = KeyStore(server.settings.home).create(BOB.name, "", Actor(BOB.name, "user"))
        assert server.ask(token).status_code == 200
        people.reread(RoleLists(viewers=frozenset({"group:staff"})))  # as the app does when it starts with other lists
        assert server.ask(token).status_code == 403
        people.reread(RoleLists(users=frozenset({"email:bob@lab.example"})))
        assert server.ask(token).status_code == 200

    def test_who_never_signed_in_has_no_role_and_a_programs_key_has_a_users(self, tmp_path: Path):
        settings = settings_for(tmp_path, PHI3KIT_PROFILE="team")
        assert role_of_key(BOB.name, settings) == "nobody"
        assert role_of_key("nightly-report", settings) == "user"


class TestIdentityHeaders:
    def test_a_shared_key_names_nobody(self, server: Server):
        headers = {
            "Authorization": "Bearer shared-key", "X-Phi3kit-User": "victim", "X-Phi3kit-Origin": "batch",
            "X-Phi3kit-Turn-Id": "one-for-many",
        }  # fmt: skip
        url = f"{server.url}/v1/chat/completions"
        answers = [httpx2.post(url, json=BODY | {"user": "victim"}, headers=headers, timeout=300) for _ in range(2)]
        assert [each.status_code for each in answers] == [200, 200]
        assert "one-for-many" not in {each.json()["phi3kit"]["turn_id"] for each in answers}
        counts = RequestCounts(server.settings.home)
        assert (counts.of("victim").daily_turns, counts.of("api").daily_turns) == (0, 2)

    def test_the_apps_own_worker_believes_its_app(self):
        headers = {"x-phi3kit-user": "ada%40lab.example", "x-phi3kit-turn-id": "t1", "x-phi3kit-origin": "ui"}
        caller = Caller.from_headers(headers, None)
        assert (caller.user, caller.turn_id, caller.origin) == ("ada@lab.example", "t1", "ui")
        outside = Caller.named("ada")
        assert (outside.user, outside.origin) == ("ada", "api")
        assert outside.turn_id != Caller.named("ada").turn_id


class TestLife:
    def test_a_key_ends_by_itself(self, tmp_path: Path):
        now = [1_000.0]
        store = KeyStore(tmp_path, lambda: now[0])
        key, token = store.create("ada", "", ADMIN, 7)
        now[0] += 7 * 86_400 - 1
        assert (store.user_of(token), key.state(now[0]), store.any_live()) == ("ada", "live", True)
        now[0] += 1
        assert (store.user_of(token), key.state(now[0]), store.any_live()) == (None, "expired", False)

    def test_no_key_lives_for_ever(self, tmp_path: Path):
        store = KeyStore(tmp_path)
        key, _ = store.create("ada", "", ADMIN)
        assert key.expires_at == pytest.approx(time.time() + USUAL_DAYS * 86_400, abs=60)
        for days in (0, -1, MOST_DAYS + 1):
            with pytest.raises(RequestInvalid, match="cannot be valid for"):
                store.create("ada", "", ADMIN, days)


class TestScoringServer:
    """MLflow's own server, which knows no users, as Deploy asks it."""

    @pytest.fixture
    def running(self, tmp_path: Path) -> ServerStatus:
        return ServerStatus("models:/m-1", "onnx", free_port(), "ready", None, 1, 0.0, "mlflow", tmp_path / "log")

    @pytest.mark.parametrize("role", EVERY_ROLE)
    def test_only_who_may_invoke_reaches_it(self, tmp_path: Path, running: ServerStatus, role: Role):
        servers = ScoringServers(settings_for(tmp_path))
        refused = WorkerFailed if may(role, "invoke") else NotAllowed
        with pytest.raises(refused):
            servers.ask(running, "{}", Actor("eve", role))

    def test_its_calls_count_against_the_callers_limits(self, tmp_path: Path, running: ServerStatus):
        servers = ScoringServers(settings_for(tmp_path, PHI3KIT_USER_MINUTE_TURNS="2"))
        for expected in (WorkerFailed, WorkerFailed, LimitReached):
            with pytest.raises(expected):
                servers.ask(running, "{}", Actor("bob", "user"))


class TestTable:
    def routes_of_the_worker(self, home: Path) -> set[str]:
        names, keys = ServedNames.read(()), Keys(None, None, required=True)
        config = WorkerConfig(home, "onnx", "models:/m-1", names, keys, Threads(1, ""), settings_for(home))
        app = create_app(config, Engine(lambda: pytest.fail("nothing is loaded"), 1), LastRequest())
        return {route.path for route in app.routes if isinstance(route, Route)} | {
            route.path for route in app.routes if isinstance(route, APIRoute)
        }

    def test_every_route_says_what_it_asks_and_only_health_and_ping_ask_nothing(self, tmp_path: Path):
        assert self.routes_of_the_worker(tmp_path) == set(ROUTES)
        assert {path for path, rule in ROUTES.items() if rule.act is None} == {"/health", "/ping"}

    @pytest.mark.parametrize("token", [None, "", "wrong", f"phi3kit_{'0' * 12}_{'a' * 43}"])
    def test_none_of_them_answers_without_a_good_key(self, server: Server, token: str | None):
        headers = {} if token is None else {"Authorization": f"Bearer {token}".strip()}
        for path, rule in {**ROUTES, "/nothing": ROUTES["/v1/models"]}.items():
            method = "POST" if rule.takes else "GET"
            answer = httpx2.request(method, server.url + path, headers=headers, json=BODY if rule.takes else None)
            assert (path, answer.status_code) == (path, 200 if rule.act is None else 401)
