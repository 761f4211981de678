"""Roles: whom a provider's claims name, and which role lists and a claim give them."""

import re
from typing import Any

import pytest

from phi3kit.access.sign_in_claims import Person, has_expired, is_persons_name, person_of, role_of
from phi3kit.core.errors import SettingInvalid
from phi3kit.core.settings import RoleLists, read_settings

ISSUER = "https://id.example"
ADA = {"iss": ISSUER, "sub": "u-1", "email": "Ada@Lab.Example", "email_verified": True, "preferred_username": "ada"}


def person(**claims: Any) -> Person:
    found = person_of(ADA | claims, RoleLists())
    assert found is not None
    return found


def role(lists: RoleLists, **claims: Any) -> str:
    found = person_of(ADA | claims, lists)
    assert found is not None
    return role_of(found, lists)


class TestPersonOf:
    def test_is_the_issuers_subject_with_the_address_that_it_verified(self):
        assert person() == Person(ISSUER, "u-1", "ada@lab.example", ())
        assert person().entries(RoleLists()) == ("email:ada@lab.example", f"sub:{ISSUER}#u-1")
        assert re.fullmatch(r"ada@lab\.example#[0-9a-f]{12}", person().name)

    @pytest.mark.parametrize("said", [False, None, 0, 1, "", "no", "false", "true", "True", [True], {"a": 1}], ids=repr)
    def test_an_address_counts_only_with_the_providers_true(self, said: object):
        assert person(email_verified=said).email is None

    @pytest.mark.parametrize(
        "email",
        [None, "", ["ada@lab.example"], "a@b,c@d", "ada@lab.example\nadmin", "é@lab.example", "\u212aate@lab.example",
         "ada", "a b@c", "ada@lab.example#0", "a@b@c"],
    )  # fmt: skip
    def test_what_is_no_plain_address_is_none(self, email: object):
        assert person(email=email).email is None

    @pytest.mark.parametrize("claims", [{"sub": None}, {"sub": 7}, {"sub": " "}, {"sub": "x" * 256}, {"sub": "a\nb"},
                                        {"iss": None}, {"iss": ""}, {"iss": ["https://id.example"]}])  # fmt: skip
    def test_without_an_issuer_and_a_subject_there_is_nobody(self, claims: dict[str, Any]):
        assert person_of(ADA | claims, RoleLists()) is None

    def test_nobody_else_has_the_name(self):
        others = [person(), person(iss="https://other.example"), person(sub="u-2"), person(email_verified=False),
                  person(email_verified=False, sub="ada@lab.example"), person(email_verified=False, sub="U-1")]  # fmt: skip
        assert len({each.name for each in others}) == len(others)
        # Not even with the end of the issuer moved into the subject.
        assert person(iss="https://a", sub="b").name != person(iss="https://", sub="ab").name

    def test_a_name_of_a_person_is_told_from_a_programs(self):
        assert is_persons_name(person().name)
        assert is_persons_name("Ada@Lab.Example＃0123456789AB")  # whoever writes it so means a person, and no program
        assert not any(map(is_persons_name, ["ada@lab.example", "ada", "local", "ada#1", "#0123456789ab"]))


class TestRoleOf:
    LISTS = RoleLists(
        frozenset({"email:ada@lab.example"}),
        frozenset({f"sub:{ISSUER}#u-2", "group:staff", "email:ada@lab.example"}),
        frozenset({f"sub:{ISSUER}#u-3", f"sub:{ISSUER}#u-2"}),
    )

    @pytest.mark.parametrize(
        ("claims", "expected"),
        [
            ({}, "admin"),
            ({"email_verified": None}, "nobody"),
            ({"email_verified": False, "sub": "ada@lab.example", "preferred_username": "ada@lab.example"}, "nobody"),
            ({"email_verified": False, "sub": "email:ada@lab.example"}, "nobody"),
            ({"email": "eve@lab.example", "groups": ["email:ada@lab.example", f"sub:{ISSUER}#u-2"]}, "nobody"),
            ({"email": None, "sub": "u-2"}, "user"),
            ({"email": None, "sub": "u-2", "iss": "https://other.example"}, "nobody"),
            ({"email": None, "sub": "u-3"}, "viewer"),
            ({"email": None, "groups": ["staff"]}, "user"),
            ({"email": None, "groups": "staff"}, "user"),
            ({"email": None, "groups": [["staff"], {"staff": 1}, "Staff", " staff"]}, "nobody"),
            ({"email": None, "sub": f"{ISSUER}#u-2", "iss": "sub"}, "nobody"),
        ],
        ids=str,
    )
    def test_the_highest_list_wins_and_each_entry_means_one_claim(self, claims: dict[str, Any], expected: str):
        assert role(self.LISTS, **claims) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
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
    def test_a_claim_gives_the_role_that_one_of_its_values_is(self, value: object, expected: str):
        assert role(RoleLists(claim="groups"), groups=value) == expected

    def test_no_claim_gives_a_role_unless_it_is_named(self):
        assert role(RoleLists(), groups=["admin"], roles="admin") == "nobody"

    def test_a_claim_raises_a_listed_role_and_never_lowers_it(self):
        lists = RoleLists(users=frozenset({"email:ada@lab.example"}), claim="groups")
        assert [role(lists, groups=each) for each in ("admin", "viewer")] == ["admin", "user"]

    @pytest.mark.parametrize(
        ("path", "claims"),
        [
            ("realm_access.roles", {"realm_access": {"roles": ["admin"]}}),
            ("https://lab.example/roles", {"https://lab.example/roles": "admin"}),
        ],
    )
    def test_a_claim_may_lie_in_another_or_be_called_like_an_address(self, path: str, claims: dict[str, Any]):
        assert role(RoleLists(claim=path), **claims) == "admin"

    def test_a_path_into_what_is_no_claim_leads_nowhere(self):
        assert role(RoleLists(claim="a.b.c"), a="admin") == "nobody"


class TestSeveralProviders:
    """Another provider may give anybody the address or the group of somebody's at the first one."""

    OTHER = "https://partner.example"
    LISTS = RoleLists(
        admins=frozenset(
            {"email:ada@lab.example", "group:ops", f"email:{ISSUER}#ada@lab.example", f"group:{ISSUER}#ops"}
        ),
        claim="groups",
        several=True,
    )

    @pytest.mark.parametrize(
        ("claims", "expected"),
        [
            ({}, "admin"),
            ({"email": None, "groups": ["ops"]}, "admin"),
            ({"iss": OTHER}, "nobody"),
            ({"iss": OTHER, "groups": ["ops", f"{ISSUER}#ops", "admin"]}, "nobody"),
            ({"iss": OTHER, "email": f"{ISSUER}#ada@lab.example"}, "nobody"),
            ({"email": None, "groups": ["admin", "phi3kit-admin"]}, "nobody"),
        ],
        ids=str,
    )
    def test_an_entry_counts_for_the_issuer_that_it_names(self, claims: dict[str, Any], expected: str):
        assert role(self.LISTS, **claims) == expected

    def test_people_are_shown_the_entries_that_count(self):
        assert person().entries(self.LISTS) == (f"email:{ISSUER}#ada@lab.example", f"sub:{ISSUER}#u-1")

    def test_settings_see_that_there_are_several_and_keep_an_issuers_case(self):
        values = {"PHI3KIT_ADMINS": "email:https://Id.example#Ada@Lab.example"}
        both = {"auth": {"client_kwargs": {}, "corp": {"client_id": "a"}, "partner": {"client_id": "b"}}}
        assert read_settings({**values, **both}).role_lists == RoleLists(
            admins=frozenset({"email:https://Id.example#ada@lab.example"}), several=True
        )
        assert not read_settings({**values, "auth": {"client_kwargs": {}, "corp": {}}}).role_lists.several


class TestHasExpired:
    @pytest.mark.parametrize(
        ("until", "expired"), [(None, False), (101, False), (100, True), (99.5, True), ("200", True), (True, True)]
    )
    def test_a_word_counts_until_its_end(self, until: object, expired: bool):
        assert has_expired({"exp": until}, now=100) is expired


class TestSettings:
    def test_lists_claim_and_default_are_read_from_the_environment(self):
        values = {
            "PHI3KIT_ADMINS": f"Ada@Lab.example, sub:{ISSUER}#bob ,", "PHI3KIT_USERS": "group:Staff",
            "PHI3KIT_VIEWERS": "email:Dan@lab.example", "PHI3KIT_ROLE_CLAIM": "groups", "PHI3KIT_DEFAULT_ROLE": "Viewer",
        }  # fmt: skip
        assert read_settings(values).role_lists == RoleLists(
            frozenset({"email:ada@lab.example", f"sub:{ISSUER}#bob"}), frozenset({"group:Staff"}),
            frozenset({"email:dan@lab.example"}), claim="groups", default="viewer",
        )  # fmt: skip

    @pytest.mark.parametrize("entry", ["ada", "sub:ada", "group:", "name:ada", "https://id.example#ada", "mailto:a@b"])
    def test_an_entry_that_does_not_say_its_claim_is_refused_by_the_lists_name(self, entry: str):
        with pytest.raises(SettingInvalid, match="PHI3KIT_USERS"):
            read_settings({"PHI3KIT_USERS": entry})

    def test_without_any_setting_nobody_gets_a_role(self):
        assert read_settings({"PHI3KIT_PROFILE": "team"}).role_lists == RoleLists()

    @pytest.mark.parametrize("role", ["root", "visitor", "admin user"])
    def test_a_default_that_is_no_role_of_a_team_is_refused(self, role: str):
        with pytest.raises(SettingInvalid, match="PHI3KIT_DEFAULT_ROLE"):
            read_settings({"PHI3KIT_DEFAULT_ROLE": role})
