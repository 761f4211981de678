"""Profiles: what each role may do; the kit refuses the rest, whoever asks it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from phi3kit.access.actor import Actor, process_actor
from phi3kit.access.roles import Act, may
from phi3kit.batch.jobs import BatchJobs
from phi3kit.batch.request import BatchRequest
from phi3kit.core.child_environment import child_environment, worker_environment
from phi3kit.core.errors import LimitReached, NotAllowed, SettingInvalid
from phi3kit.core.profiles import Role
from phi3kit.core.records import Endpoint, Message
from phi3kit.core.settings import PROJECT_ROOT, Settings, read_settings
from phi3kit.deployment.azure import plan_bundle
from phi3kit.deployment.servers import ScoringServers
from phi3kit.endpoints.client import ask
from phi3kit.endpoints.connections import Connection, remove_connection, save_connection
from phi3kit.endpoints.invocations import score
from phi3kit.endpoints.probe import probe
from phi3kit.endpoints.records import Request, TurnContext
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.evaluation.jobs import EvaluationJobs
from phi3kit.evaluation.request import EvaluationRequest
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.jobs import BuildJobs
from phi3kit.packaging.sources.find import EMBEDDED, find_source
from phi3kit.tracking import registry
from phi3kit.usage import prices
from tests.conftest import Built, run_cli, settings_for
from tests.support.actors import ADMIN

CAPITAL = (Message("user", "What is the capital of Spain?"),)
NOWHERE = Endpoint("http://127.0.0.1:9", "key", "models:/m-1", "onnx")


@pytest.fixture
def stranger(tmp_path: Path) -> Settings:
    return settings_for(tmp_path, PHI3KIT_PROFILE="public")


class TestRoles:
    @pytest.mark.parametrize(
        ("role", "acts"),
        [
            ("nobody", ""),
            ("viewer", "read watch"),
            ("visitor", "talk build"),
            ("user", "talk build build_any batch evaluate invoke register keep keys read"),
            (
                "admin",
                "talk build build_any batch evaluate invoke register keep keys read "
                "build_folder connect delete serve watch administer",
            ),
        ],
    )
    def test_may_do_exactly_this(self, role: Role, acts: str):
        every: tuple[Act, ...] = (
            "talk", "build", "build_any", "batch", "evaluate", "invoke", "register", "keep", "keys", "read",
            "build_folder", "connect", "delete", "serve", "watch", "administer",
        )  # fmt: skip
        assert [act for act in every if may(role, act)] == acts.split()

    def test_a_refusal_says_what_why_and_who_could(self):
        with pytest.raises(NotAllowed) as caught:
            Actor("ada", "user").require("delete")
        assert str(caught.value) == (
            "You may not delete models or versions here. Your role is user; this needs admin. "
            "Ask whoever runs this app for that role."
        )


class TestSettings:
    def test_ones_own_machine_has_everything_on(self):
        settings = read_settings({})
        assert (settings.profile, process_actor(settings, {}).role, settings.allowed_hosts) == ("local", "admin", None)
        assert not settings.limits.paces_users

    def test_strangers_are_never_more_than_visitors_and_leave_no_text(self):
        given = {
            "PHI3KIT_PROFILE": "public", "PHI3KIT_ACTING_ROLE": "admin", "PHI3KIT_LOG_TEXT": "1",
            "PHI3KIT_ALLOWED_HOSTS": "127.0.0.1",
        }  # fmt: skip
        settings = read_settings(given)
        assert (process_actor(settings, given).role, settings.log_text, settings.allowed_hosts) == (
            "visitor",
            False,
            (),
        )
        assert settings.limits.user_minute_turns == 12

    def test_a_limit_that_is_set_wins_over_the_profiles(self):
        settings = read_settings({"PHI3KIT_PROFILE": "public", "PHI3KIT_USER_MINUTE_TURNS": "2"})
        assert settings.limits.user_minute_turns == 2
        assert settings.limits.user_daily_turns == 200

    def test_another_profile_is_named(self):
        with pytest.raises(SettingInvalid, match=r"PHI3KIT_PROFILE.*'open'"):
            read_settings({"PHI3KIT_PROFILE": "open"})

    @pytest.mark.parametrize("profile", ["local", "team", "public"])
    def test_a_child_reads_the_same(self, tmp_path: Path, profile: str):
        settings = settings_for(tmp_path, PHI3KIT_PROFILE=profile, PHI3KIT_DISK_MB="900")
        assert read_settings(child_environment(settings)) == settings


STRANGER = Actor("guest-1", "visitor")


class TestStranger:
    """Each line is one way to do more than the main job; every one is refused in the kit itself."""

    def test_builds_nothing_but_the_embedded_model(self, stranger: Settings, tmp_path: Path):
        assert find_source(EMBEDDED, STRANGER, stranger).kind == "weights"
        for source in (str(tmp_path), "/etc", "microsoft/Phi-3-mini-4k-instruct"):
            with pytest.raises(NotAllowed, match="another source"):
                find_source(source, STRANGER, stranger)
            with pytest.raises(NotAllowed, match="another source"):
                BuildJobs(stranger).start(BuildRequest(("onnx",), source, "int4"), STRANGER)
        with pytest.raises(NotAllowed, match="Model Registry"):
            BuildJobs(stranger).start(BuildRequest(("onnx",), EMBEDDED, "int4", register="phi3"), STRANGER)
        assert not (stranger.home / "builds").exists()

    def test_starts_no_batch_evaluation_server_or_bundle(self, stranger: Settings, built: Built, tmp_path: Path):
        uri = built.uri("onnx")
        table = tmp_path / "in.csv"
        table.write_text("message\nhello\n")
        with pytest.raises(NotAllowed):
            BatchJobs(stranger).start(BatchRequest(uri, table, tmp_path / "out.csv"), STRANGER)
        with pytest.raises(NotAllowed):
            EvaluationJobs(stranger).start(EvaluationRequest(uri, "embedded"), STRANGER)
        with pytest.raises(NotAllowed):
            ScoringServers(stranger).start(uri, STRANGER)
        with pytest.raises(NotAllowed):
            plan_bundle(uri, STRANGER, stranger)
        with pytest.raises(NotAllowed):
            score(NOWHERE, "{}", STRANGER)
        with pytest.raises(NotAllowed):
            WorkerPool(stranger).unload(uri, STRANGER)

    def test_changes_no_registry_and_deletes_nothing(self, built: Built):
        stranger, uri = built.settings, built.uri("onnx")
        for act in (
            lambda: registry.register(uri, "theirs", STRANGER, stranger),
            lambda: registry.set_alias("theirs", "champion", 1, STRANGER, stranger),
            lambda: registry.remove_alias("theirs", "champion", STRANGER, stranger),
            lambda: registry.describe("theirs", 1, "mine", STRANGER, stranger),
            lambda: registry.set_tags("theirs", 1, {"a": "b"}, STRANGER, stranger),
            lambda: registry.delete_version("theirs", 1, STRANGER, stranger),
            lambda: registry.delete_model(uri, STRANGER, stranger),
            lambda: prices.save(STRANGER, stranger, {}),
        ):
            with pytest.raises(NotAllowed):
                act()
        assert "theirs" not in [each.name for each in registry.list_registered(built.settings)]

    def test_adds_and_tests_no_remote_endpoint(self, stranger: Settings):
        connection = Connection("mine", "http://127.0.0.1:9", model="x")
        for act in (
            lambda: save_connection(connection, STRANGER, stranger),
            lambda: remove_connection("mine", STRANGER, stranger),
            lambda: probe(connection, {}, STRANGER, stranger),
        ):
            with pytest.raises(NotAllowed, match="remote endpoints"):
                act()

    @pytest.mark.parametrize(
        "arguments",
        [
            ("build", "--wrapper", "onnx", "--source", "/etc"),
            ("build", "--wrapper", "onnx", "--source", "microsoft/Phi-3-mini-4k-instruct", "--plan"),
            ("build", "--wrapper", "onnx", "--register", "mine"),
        ],
    )
    def test_finds_no_way_around_in_a_terminal(self, arguments: tuple[str, ...], tmp_path: Path):
        done = run_cli(*arguments, home=tmp_path, PHI3KIT_PROFILE="public", PHI3KIT_ACTING_ROLE="admin")
        assert done.returncode == 2
        assert done.stderr.startswith("phi3kit: You may not ")
        assert done.stderr.count("\n") == 1


def test_a_viewer_asks_nothing(built: Built):
    with pytest.raises(NotAllowed, match="may not ask a model"):
        ask(NOWHERE, Request(CAPITAL), TurnContext(Actor("eve", "viewer"), "ui"), built.settings)


def test_somebody_elses_job_is_theirs_to_end(tmp_path: Path):
    settings = settings_for(tmp_path)
    ada, bob = Actor("ada", "user"), Actor("bob", "user")
    jobs = BuildJobs(settings)
    job = jobs.start(BuildRequest(("onnx",), EMBEDDED, "int4"), ada)
    with pytest.raises(NotAllowed, match="belongs to others"):
        jobs.cancel(job, bob)
    jobs.cancel(job, ada)


def test_builds_that_wait_are_bounded(tmp_path: Path):
    settings = settings_for(tmp_path, PHI3KIT_WAITING_JOBS="1")
    jobs = BuildJobs(settings)
    job = jobs.start(BuildRequest(("onnx",), EMBEDDED, "int4"), ADMIN)
    try:
        with pytest.raises(LimitReached, match="1 builds are running or queued; the limit is 1"):
            jobs.start(BuildRequest(("onnx",), EMBEDDED, "int4"), ADMIN)
    finally:
        jobs.cancel(job, ADMIN)


SECRETS = {
    "PHI3KIT_API_KEY": "s3cret-1", "PHI3KIT_KEY_LAB": "s3cret-2", "PHI3KIT_HF_TOKEN": "s3cret-3",
    "MLFLOW_TRACKING_PASSWORD": "s3cret-4", "MLFLOW_TRACKING_URI": "http://user:s3cret-5@127.0.0.1:1",
    "AWS_SECRET_ACCESS_KEY": "s3cret-6", "OPENAI_API_KEY": "s3cret-7", "HTTPS_PROXY": "http://u:s3cret-8@proxy",
}  # fmt: skip


class TestEnvironment:
    def test_a_worker_is_told_no_secret(self, tmp_path: Path):
        code = (
            "from phi3kit.core.settings import read_settings\nfrom phi3kit.core.child_environment import worker_environment as of\n"
            "import json\nprint(json.dumps(of(read_settings())))"
        )
        env = {**os.environ, "PHI3KIT_HOME": str(tmp_path), **SECRETS}
        said = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, env=env, capture_output=True, text=True)
        assert '"PHI3KIT_HOME"' in said.stdout, said.stderr
        assert "s3cret" not in said.stdout

    def test_what_writes_to_the_store_can_sign_in_there_and_nowhere_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        environment = child_environment(read_settings({**os.environ, "PHI3KIT_HOME": str(tmp_path)}))
        assert environment["MLFLOW_TRACKING_PASSWORD"] == "s3cret-4"
        assert environment["AWS_SECRET_ACCESS_KEY"] == "s3cret-6"
        assert not {"PHI3KIT_API_KEY", "PHI3KIT_KEY_LAB", "OPENAI_API_KEY"} & environment.keys()

    def test_pickles_and_remote_code_stay_off(self, tmp_path: Path):
        assert worker_environment(settings_for(tmp_path))["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
