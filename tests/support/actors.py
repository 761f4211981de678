"""Actors: people in whose name tests do things."""

from phi3kit.access.actor import Actor

ADMIN = Actor("local", "admin")  # whoever starts phi3kit on their own machine


def admin(name: str) -> Actor:
    """An admin of this name."""
    return Actor(name, "admin")
