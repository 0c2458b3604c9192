"""The addresses that a team's providers may lead to: the internet, and what `FABULA_INTERNAL_SERVERS` names."""

from __future__ import annotations

import pytest

from core.address_rules import UNRESTRICTED, AddressRefused, AddressRules
from core.errors import BadSettings
from core.settings import Settings

_TEAM = AddressRules(restricted=True)

_INSIDE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "169.254.0.1",
    "169.254.169.254",  # credentials of AWS, Azure, Google Cloud
    "169.254.170.2",  # of Amazon ECS
    "100.64.0.1",
    "100.100.100.200",  # of Alibaba Cloud
    "192.0.0.192",  # of Oracle Cloud
    "168.63.129.16",  # Azure's service on every machine
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "198.18.0.1",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",  # compatible with 127.0.0.1
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:7f00:1",  # translated
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::1",  # 6to4 of 127.0.0.1
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
    "2001:db8::1",
    "2001:470:1::5efe:a00:1",  # ISATAP to 10.0.0.1
    "2001:20::1",
    "3fff::1",
    "100::1",
    "fc00::1",
    "fd00:ec2::254",  # credentials of AWS
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "4000::1",
    "not an address",
]


@pytest.mark.parametrize("address", _INSIDE)
def test_an_address_inside_the_network_is_refused_in_team_mode_only(address: str) -> None:
    with pytest.raises(AddressRefused):
        _TEAM.check("llm.example.com", address)
    UNRESTRICTED.check("llm.example.com", address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_an_address_of_the_internet_is_allowed(address: str) -> None:
    _TEAM.check("llm.example.com", address)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "api.localhost",
        "127.1",
        "127.0.1",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "2130706433",
        "017700000001",
        "0",
        "10.1",
        "169.254.43518",
        "0xA9FEA9FE",
        "１２７.０.０.１",
        "127。0。0。1",
        "①②⑦.0.0.1",
        "[::1]",
        "::ffff:7f00:1",
        "fe80::1%25eth0",
    ],
)
def test_every_spelling_of_an_inner_address_is_recognised(host: str) -> None:
    assert _TEAM.refuses_host(host) and not UNRESTRICTED.refuses_host(host)


@pytest.mark.parametrize(
    "host", ["llm.example.com", "8.8.8.8", "[2606:4700::1111]", "localhost.example.com", "134744072"]
)
def test_other_hosts_are_checked_when_they_are_looked_up(host: str) -> None:
    assert not _TEAM.refuses_host(host)


@pytest.mark.parametrize(
    ("allowed", "host", "address", "passes"),
    [
        ("llm.example.com", "LLM.example.com.", "10.1.2.3", True),
        ("llm.example.com", "llm.example.com", "127.0.0.1", True),
        ("llm.example.com", "llm.example.com", "fd00::5", True),
        ("llm.example.com", "other.example.com", "10.1.2.3", False),
        ("llm.example.com", "x.llm.example.com", "10.1.2.3", False),
        ("llm.example.com", "llm.example.com", "169.254.169.254", False),  # only by its number
        ("llm.example.com", "llm.example.com", "::ffff:169.254.169.254", False),
        ("169.254.169.254", "meta.example.com", "169.254.169.254", True),
        ("10.1.2.0/24", "any.example.com", "10.1.2.255", True),
        ("10.1.2.0/24", "any.example.com", "::ffff:10.1.2.255", True),
        ("10.1.2.0/24", "any.example.com", "10.1.3.0", False),
        ("localhost", "localhost", "127.0.0.1", True),
        ("localhost", "127.0.0.1", "127.0.0.1", False),
        ("[fd00::]", "v6.example.com", "fd00::", True),
        ("fd00::/8", "v6.example.com", "fd12::1", True),
    ],
)
def test_the_allow_list_opens_what_it_names(allowed: str, host: str, address: str, passes: bool) -> None:
    rules = AddressRules(restricted=True, allowed=(allowed,))
    if passes:
        rules.check(host, address)
        assert not rules.refuses_host(host)
    else:
        with pytest.raises(AddressRefused):
            rules.check(host, address)


@pytest.mark.parametrize("value", ["http://llm.example.com", "10.1.2.3/24", "a/b", "*.example.com", "a b", "-x.com"])
def test_an_entry_that_is_no_host_or_network_ends_the_start(value: str) -> None:
    with pytest.raises(BadSettings, match="FABULA_INTERNAL_SERVERS"):
        Settings.from_env({"FABULA_INTERNAL_SERVERS": f"llm.example.com,{value}"})
