"""What others ask and cost shows in no figure of a worker to somebody with a user's key, or with none."""

from pathlib import Path

from phi3kit.access.keys import KeyStore
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.worker_app import OWN_KEY, worker_app


def test_only_who_may_watch_sees_what_others_did(built: Built, tmp_path: Path) -> None:
    with worker_app(built, tmp_path, managed=False) as client:
        del client.headers["Authorization"]
        _, alice = KeyStore(tmp_path).create("alice", "", ADMIN)
        bare = {"state", "model_uri", "wrapper"}
        seen = {}
        for name, key in (("nobody", ""), ("wrong", "x"), ("alice", alice), ("operator", OWN_KEY)):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            health = client.get("/health", headers=headers)
            assert health.status_code == 200
            seen[name] = (set(health.json()) - bare, client.get("/metrics", headers=headers).status_code)
        figures = {"active", "waiting", "threads", "kv_cache"}
        assert seen == {
            "nobody": (set(), 401),
            "wrong": (set(), 401),
            "alice": (set(), 403),
            "operator": (figures, 200),
        }
        refused = client.get("/metrics", headers={"Authorization": f"Bearer {alice}"}).json()["error"]
        assert (refused["code"], "see what others used" in refused["message"]) == ("role_not_allowed", True)
