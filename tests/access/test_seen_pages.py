"""Seen pages: each person's own, and once."""

from pathlib import Path

from phi3kit.access.seen_pages import SeenPages


def test_each_persons_pages_are_their_own_and_stay(tmp_path: Path) -> None:
    ada, bob = SeenPages(tmp_path, "ada"), SeenPages(tmp_path, "bob")
    ada.add("usage")
    ada.add("usage")
    ada.add("signatures")
    assert SeenPages(tmp_path, "ada").names() == {"usage", "signatures"}
    assert bob.names() == set()
