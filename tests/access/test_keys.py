"""Keys: made once, kept as a hash, whose they are, and who may make, see and end them."""

import re
import stat
import threading
from pathlib import Path

import pytest

from phi3kit.access.actor import Actor
from phi3kit.access.keys import MOST_KEYS, KeyStore
from phi3kit.core.errors import NotAllowed, RequestInvalid, StorageFailed
from phi3kit.core.profiles import Role
from tests.conftest import run_cli


@pytest.fixture
def ada() -> Actor:
    return Actor("ada", "user")


@pytest.fixture
def admin() -> Actor:
    return Actor("root", "admin")


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path)


class TestCreate:
    def test_a_key_is_its_users(self, store: KeyStore, ada: Actor):
        key, token = store.create("ada", "  my\nnotebook ", ada)
        assert (key.user, key.note, key.revoked_at) == ("ada", "my notebook", None)
        assert re.fullmatch(r"phi3kit_[0-9a-f]{12}_[\w-]{43}", token)
        assert store.user_of(token) == "ada"

    def test_the_key_itself_lies_nowhere_in_the_data_folder(self, store: KeyStore, ada: Actor, tmp_path: Path):
        _, token = store.create("ada", "", ada)
        secret = token.rpartition("_")[2].encode()
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files
        assert not any(secret in path.read_bytes() for path in files)

    def test_only_the_owner_of_the_machine_reads_the_file(self, store: KeyStore, ada: Actor, tmp_path: Path):
        store.create("ada", "", ada)
        assert stat.S_IMODE((tmp_path / "keys.db").stat().st_mode) == 0o600

    @pytest.mark.parametrize("role", ["viewer", "visitor", "nobody"])
    def test_who_may_not_ask_makes_no_key(self, store: KeyStore, tmp_path: Path, role: Role):
        with pytest.raises(NotAllowed, match="API keys"):
            store.create("ada", "", Actor("ada", role))
        assert not store.any_live()

    def test_names_are_one_in_whatever_case_and_width_as_sign_in_has_them(self, store: KeyStore, admin: Actor):
        ada = Actor("ada@lab.example#0123456789ab", "user")
        given = ["Ada@Lab.Example#0123456789AB", "ａｄａ@lab.example＃0123456789ab", f" {ada.name} "]
        keys = [store.create(name, "", ada) for name in given]
        assert {key.user for key, _ in keys} == {ada.name}
        assert {store.user_of(token) for _, token in keys} == {ada.name}
        assert len(store.list(ada)) == 3
        store.revoke(keys[0][0].id, ada)
        assert store.user_of(keys[0][1]) is None
        for other in ("sub:Ada#0123456789ab", "Sub-Program", "ada@lab.example#0123456789ac"):
            key, _ = store.create(other, "", admin)  # an issuer's subjects and programs' names have their case
            assert key.user == other

    def test_only_an_admin_makes_a_key_for_somebody_else(self, store: KeyStore, ada: Actor, admin: Actor):
        with pytest.raises(NotAllowed):
            store.create("bob", "", ada)
        _, token = store.create("bob", "", admin)
        assert store.user_of(token) == "bob"

    @pytest.mark.parametrize("user", ["", "  ", "a\x00b", "x" * 201])
    def test_what_is_no_name_gets_no_key(self, store: KeyStore, admin: Actor, user: str):
        with pytest.raises(RequestInvalid, match="is not a user name"):
            store.create(user, "", admin)

    def test_one_user_has_so_many_live_keys_at_most(self, store: KeyStore, ada: Actor):
        keys = [store.create("ada", "", ada)[0] for _ in range(MOST_KEYS)]
        with pytest.raises(RequestInvalid, match=f"{MOST_KEYS} keys"):
            store.create("ada", "", ada)
        store.revoke(keys[0].id, ada)
        store.create("ada", "", ada)


class TestUserOf:
    def test_a_key_that_is_not_exactly_right_is_nobodys(self, store: KeyStore, ada: Actor):
        key, token = store.create("ada", "", ada)
        other = store.create("ada", "", ada)[1]
        forged = [
            "", "phi3kit_", key.id, token[:-1], f"{token}x", f" {token}", token.upper(), token.replace("phi3kit", "sk"),
            token[:-2] + ("AA" if token[-2:] != "AA" else "BB"),
            f"phi3kit_{key.id}_{other.rpartition(key.id)[2][-43:]}", f"phi3kit_{key.id}_{'%' * 43}",
            f"phi3kit_' or 1=1 --_{token[-43:]}",
        ]  # fmt: skip
        assert [store.user_of(each) for each in forged] == [None] * len(forged)

    def test_a_revoked_key_is_nobodys_also_in_another_process_store(self, store: KeyStore, ada: Actor, tmp_path: Path):
        key, token = store.create("ada", "", ada)
        other = KeyStore(tmp_path)
        assert other.user_of(token) == "ada"
        store.revoke(key.id, ada)
        assert (other.user_of(token), store.any_live()) == (None, False)

    def test_its_last_use_is_written_once_a_minute(self, tmp_path: Path, ada: Actor):
        now = [1000.0]
        store = KeyStore(tmp_path, lambda: now[0])
        _, token = store.create("ada", "", ada)
        seen = []
        for moment in (1000.0, 1059.0, 1061.0, 500.0):  # the last one: a clock that was set back
            now[0] = moment
            store.user_of(token)
            seen.append(store.list(ada)[0].last_used_at)
        assert seen == [1000.0, 1000.0, 1061.0, 500.0]

    def test_looking_makes_no_file(self, store: KeyStore, tmp_path: Path, ada: Actor):
        assert (store.user_of(f"phi3kit_{'0' * 12}_{'a' * 43}"), store.any_live(), store.list(ada)) == (None, False, [])
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_cannot_be_read_lets_nobody_in(self, store: KeyStore, ada: Actor, tmp_path: Path):
        _, token = store.create("ada", "", ada)
        for path in tmp_path.glob("keys.db*"):
            path.unlink()
        (tmp_path / "keys.db").write_bytes(b"no database" * 100)
        with pytest.raises(StorageFailed, match="API keys"):
            store.user_of(token)

    def test_many_threads_find_it(self, store: KeyStore, ada: Actor):
        _, token = store.create("ada", "", ada)
        found: list[str | None] = []
        threads = [threading.Thread(target=lambda: found.append(store.user_of(token))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["ada"] * 8


class TestListAndRevoke:
    def test_one_sees_ones_own_and_an_admin_everybodys(self, store: KeyStore, ada: Actor, admin: Actor):
        store.create("ada", "hers", ada)
        store.create("bob", "his", admin)
        assert [key.note for key in store.list(ada)] == ["hers"]
        assert {key.note for key in store.list(admin, everybody=True)} == {"hers", "his"}
        with pytest.raises(NotAllowed):
            store.list(ada, everybody=True)

    def test_somebody_elses_key_is_not_to_be_told_from_none(self, store: KeyStore, ada: Actor, admin: Actor):
        key, token = store.create("bob", "", admin)
        with pytest.raises(RequestInvalid) as foreign:
            store.revoke(key.id, ada)
        with pytest.raises(RequestInvalid) as unknown:
            store.revoke("0" * 12, ada)
        assert str(foreign.value).replace(key.id, "") == str(unknown.value).replace("0" * 12, "")
        assert store.user_of(token) == "bob"
        store.revoke(key.id, admin)
        assert store.user_of(token) is None

    def test_it_is_revoked_once(self, store: KeyStore, ada: Actor):
        key, _ = store.create("ada", "", ada)
        store.revoke(key.id, ada)
        with pytest.raises(RequestInvalid, match="no live key"):
            store.revoke(key.id, ada)


class TestCommands:
    def test_a_key_is_made_listed_and_revoked(self, tmp_path: Path):
        made = run_cli("keys", "create", "ada", "--note", "notebook", home=tmp_path)
        assert made.returncode == 0, made.stderr
        token = made.stdout.strip()
        assert KeyStore(tmp_path).user_of(token) == "ada"
        (line,) = run_cli("keys", "list", home=tmp_path).stdout.splitlines()
        assert ("ada" in line, "notebook" in line, token[-43:] in line) == (True, True, False)
        key_id = token.split("_")[1]
        assert run_cli("keys", "revoke", key_id, home=tmp_path).returncode == 0
        listed = run_cli("keys", "list", "--json", home=tmp_path).stdout
        assert (f'"id": "{key_id}"' in listed, '"revoked_at": null' in listed, token[-43:] in listed) == (
            True,
            False,
            False,
        )

    @pytest.mark.parametrize("arguments", [("revoke", "nothing"), ("create", " "), ("create",), ()], ids=str)
    def test_a_mistake_is_one_line_and_exit_code_2(self, tmp_path: Path, arguments: tuple[str, ...]):
        done = run_cli("keys", *arguments, home=tmp_path)
        assert (done.returncode, done.stdout, len(done.stderr.strip().splitlines())) == (2, "", 1)

    def test_the_public_profile_makes_none(self, tmp_path: Path):
        done = run_cli("keys", "create", "ada", home=tmp_path, PHI3KIT_PROFILE="public")
        assert (done.returncode, done.stdout) == (2, "")
        assert "public demo" in done.stderr
