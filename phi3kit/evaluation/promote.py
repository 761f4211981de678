"""Promote: an alias such as champion moves to the version that an evaluation found best.

Knows the registry. Scores nothing.
"""

from phi3kit.access.actor import Actor
from phi3kit.core.settings import Settings
from phi3kit.evaluation.results import Evaluation
from phi3kit.tracking.registry import list_registered, register, set_alias


def promote(evaluation: Evaluation, name: str, alias: str, actor: Actor, settings: Settings) -> str:
    """Point models:/NAME@ALIAS to the evaluated model, which becomes a version of NAME if it is none yet. Returns that URI.

    Raises NotAllowed, RequestInvalid, ModelNotFound or StorageFailed.
    """
    actor.require("register")
    versions = [version for each in list_registered(settings) if each.name == name for version in each.versions]
    mine = next((version for version in versions if version.logged_model == evaluation.model_uri), None)
    if mine is None:
        register(evaluation.model_uri, name, actor, settings, aliases=[alias])
    else:
        set_alias(name, alias, mine.version, actor, settings)
    return f"models:/{name}@{alias}"
