"""Hosts: where a request may go, by the address that it would really reach."""

import pytest

from phi3kit.access.hosts import AllowedHosts
from phi3kit.core.errors import SettingInvalid

PUBLIC = "93.184.216.34"


class TestNames:
    @pytest.mark.parametrize("host", ["api.example.com", "API.Example.com", "api.example.com."])
    def test_a_listed_name_reaches_a_public_address(self, host: str):
        assert AllowedHosts.read(["api.example.com"]).allows(host, 443, PUBLIC)

    @pytest.mark.parametrize("host", ["example.com", "evil.api.example.com", "api.example.com.evil.org", PUBLIC])
    def test_no_other_name_does(self, host: str):
        assert not AllowedHosts.read(["api.example.com"]).allows(host, 443, PUBLIC)

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "0.0.0.0", "10.0.0.5", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1",  # noqa: S104
            "224.0.0.1", "::1", "::", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
            "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "ff02::1",
        ],
    )  # fmt: skip
    def test_a_listed_name_that_leads_inwards_reaches_nothing(self, address: str):
        assert not AllowedHosts.read(["api.example.com"]).allows("api.example.com", 443, address)

    def test_a_name_with_a_port_counts_for_that_port(self):
        allowed = AllowedHosts.read(["lab.example.com:8000"])
        assert allowed.allows("lab.example.com", 8000, PUBLIC)
        assert not allowed.allows("lab.example.com", 22, PUBLIC)


class TestAddresses:
    @pytest.mark.parametrize(
        ("entry", "address", "port"),
        [
            ("127.0.0.1:11434", "127.0.0.1", 11434), ("10.0.0.0/8", "10.9.8.7", 80), ("[::1]:8000", "::1", 8000),
            ("localhost", "127.0.0.1", 80), ("localhost:8000", "::1", 8000), ("127.0.0.1", "::ffff:127.0.0.1", 80),
        ],
    )  # fmt: skip
    def test_a_listed_address_is_reached_by_any_name(self, entry: str, address: str, port: int):
        assert AllowedHosts.read([entry]).allows("whatever.example.com", port, address)

    @pytest.mark.parametrize(
        ("entry", "address", "port"),
        [("127.0.0.1:11434", "127.0.0.1", 22), ("10.0.0.0/8", "11.0.0.1", 80), ("localhost:8000", "127.0.0.1", 8001)],
    )
    def test_no_other_address_or_port_is(self, entry: str, address: str, port: int):
        assert not AllowedHosts.read([entry]).allows("whatever.example.com", port, address)

    def test_an_empty_list_reaches_nothing(self):
        assert not AllowedHosts.read([]).allows("api.example.com", 443, PUBLIC)


@pytest.mark.parametrize("entry", ["http://host", "host:", "host:0", "host:99999", "a b", "host/path", "*.example.com"])
def test_what_is_no_host_is_named(entry: str):
    with pytest.raises(SettingInvalid, match="PHI3KIT_ALLOWED_HOSTS"):
        AllowedHosts.read([entry])
