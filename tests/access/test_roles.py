"""Roles: whom a provider's claims name, and which role lists and a claim give them."""

from typing import Any

import pytest

from phi3kit.access.sign_in_claims import has_expired, name_of, role_of
from phi3kit.core.errors import SettingInvalid
from phi3kit.core.settings import RoleLists, read_settings

ADA = {"sub": "u-1", "email": "ada@lab.example", "email_verified": True, "preferred_username": "ada"}


class TestNameOf:
    @pytest.mark.parametrize(
        ("claims", "name"),
        [
            (ADA, "ada@lab.example"),
            ({"sub": "u-1", "email": "Ada@Lab.Example"}, "ada@lab.example"),
            ({"sub": "u-1", "preferred_username": "ada"}, "ada"),
            ({"sub": "U-1"}, "U-1"),
            ({"sub": "u-1", "email": ""}, "u-1"),
            ({"sub": "u-1", "email": ["ada@lab.example"]}, "u-1"),
            ({"sub": "u-1", "email": "ada@lab.example,eve@lab.example"}, "u-1"),
            ({"sub": "u-1", "email": "ada@lab.example\nadmin"}, "u-1"),
            ({"sub": "u-1", "email": "é" * 40}, "u-1"),
        ],
    )
    def test_is_the_address_else_the_handle_else_the_providers_id(self, claims: dict[str, Any], name: str):
        assert name_of(claims) == name

    @pytest.mark.parametrize("said", [False, "false", "False"])
    def test_an_address_that_is_not_verified_names_nobody(self, said: object):
        assert name_of(ADA | {"email_verified": said}) == "u-1"

    @pytest.mark.parametrize("claims", [{}, {"sub": 7}, {"sub": " "}, {"sub": "x" * 201}])
    def test_claims_without_a_name_name_nobody(self, claims: dict[str, Any]):
        assert name_of(claims) is None

    def test_a_letter_that_only_looks_plain_in_lower_case_is_another_name(self):
        assert name_of({"email": "\u212aate@lab.example"}) != "kate@lab.example"  # the sign of Kelvin


class TestRoleOf:
    LISTS = RoleLists(frozenset({"ada@lab.example"}), frozenset({"bob", "Ada@Lab.example"}), frozenset({"cleo", "bob"}))

    @pytest.mark.parametrize(
        ("name", "role"),
        [("ada@lab.example", "admin"), ("bob", "user"), ("cleo", "viewer"), ("Bob", "nobody"), ("", "nobody")],
    )
    def test_the_highest_list_wins_and_who_is_on_none_is_nobody(self, name: str, role: str):
        assert role_of(name, {"roles": "admin"}, self.LISTS) == role

    @pytest.mark.parametrize(
        ("value", "role"),
        [
            ("admin", "admin"),
            ("phi3kit-admin", "admin"),
            (["staff", "phi3kit-user", "viewer"], "user"),
            ("viewer", "viewer"),
            ("not admin", "nobody"),
            ("admin,user", "nobody"),
            ("Admin", "nobody"),
            ({"admin": True}, "nobody"),
            ([["admin"]], "nobody"),
            (True, "nobody"),
            (None, "nobody"),
        ],
    )
    def test_a_claim_gives_the_role_that_one_of_its_values_is(self, value: object, role: str):
        assert role_of("ada", {"groups": value}, RoleLists(claim="groups")) == role

    def test_a_claim_raises_a_listed_role_and_never_lowers_it(self):
        lists = RoleLists(users=frozenset({"ada"}), claim="groups")
        assert [role_of("ada", {"groups": each}, lists) for each in ("admin", "viewer")] == ["admin", "user"]

    @pytest.mark.parametrize(
        ("path", "claims"),
        [
            ("realm_access.roles", {"realm_access": {"roles": ["admin"]}}),
            ("https://lab.example/roles", {"https://lab.example/roles": "admin"}),
        ],
    )
    def test_a_claim_may_lie_in_another_or_be_called_like_an_address(self, path: str, claims: dict[str, Any]):
        assert role_of("ada", claims, RoleLists(claim=path)) == "admin"

    def test_a_path_into_what_is_no_claim_leads_nowhere(self):
        assert role_of("ada", {"a": "admin"}, RoleLists(claim="a.b.c")) == "nobody"


class TestHasExpired:
    @pytest.mark.parametrize(
        ("until", "expired"), [(None, False), (101, False), (100, True), (99.5, True), ("200", True), (True, True)]
    )
    def test_a_word_counts_until_its_end(self, until: object, expired: bool):
        assert has_expired({"exp": until}, now=100) is expired


class TestSettings:
    def test_lists_claim_and_default_are_read_from_the_environment(self):
        values = {
            "PHI3KIT_ADMINS": "Ada@Lab.example, bob ,", "PHI3KIT_USERS": "cleo", "PHI3KIT_VIEWERS": "dan",
            "PHI3KIT_ROLE_CLAIM": "groups", "PHI3KIT_DEFAULT_ROLE": "Viewer",
        }  # fmt: skip
        names = {
            name: frozenset(each) for name, each in {"admins": ("Ada@Lab.example", "bob"), "users": ("cleo",)}.items()
        }
        assert read_settings(values).role_lists == RoleLists(
            **names, viewers=frozenset(("dan",)), claim="groups", default="viewer"
        )

    def test_without_any_setting_nobody_gets_a_role(self):
        assert read_settings({"PHI3KIT_PROFILE": "team"}).role_lists == RoleLists()

    @pytest.mark.parametrize("role", ["root", "visitor", "admin user"])
    def test_a_default_that_is_no_role_of_a_team_is_refused(self, role: str):
        with pytest.raises(SettingInvalid, match="PHI3KIT_DEFAULT_ROLE"):
            read_settings({"PHI3KIT_DEFAULT_ROLE": role})
