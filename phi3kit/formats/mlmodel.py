"""MLmodel: the file of a logged model that says how it is loaded, read as plain data whoever wrote it.

Knows its size, its YAML and the kinds of the parts that phi3kit reads. Knows neither which values they may have
(formats/model_configs.py) nor MLflow's objects, and imports nothing that is named in it.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from phi3kit.core.operating_system import open_inside

_LARGEST = 1_000_000  # bytes
_LARGEST_PLAIN = 1_000  # characters of a number or a word; a signature is in quotes
_DEEPEST = 32
_LARGEST_SCHEMA = 100_000  # characters
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is twenty times as fast


class MlmodelUnreadable(ValueError):
    """The MLmodel is missing, or not such as MLflow writes it."""


def read_mlmodel(folder: Path) -> dict[str, Any]:
    """What the MLmodel of a logged model says, as mappings where phi3kit looks for mappings. Raises MlmodelUnreadable."""
    try:
        text = read_small(folder, "MLmodel").decode("utf-8")
        _check_events(text)
        described = yaml.load(text, _LOADER)  # noqa: S506 (one of YAML's two safe ones)
    except Exception as error:  # besides YAML's own: whatever Python raises for an odd number or date
        raise MlmodelUnreadable("Its MLmodel file is missing or damaged.") from error
    if not _is_mapping(described):
        raise MlmodelUnreadable("Its MLmodel file is not a mapping.")
    flavors = described.get("flavors")
    function = _part(flavors, "python_function")
    if not _is_mapping(flavors) or not all(map(_is_mapping, flavors.values())):
        raise MlmodelUnreadable("Its MLmodel file names no flavors.")
    if not all(
        _is_mapping(each) and isinstance(each.get("path"), str) for each in _part(function, "artifacts").values()
    ):
        raise MlmodelUnreadable("Its MLmodel file names artifacts without a path.")
    if not isinstance(function.get("model_code_path"), str | None):
        raise MlmodelUnreadable("Its MLmodel file names code that has no path.")
    for schema in _part(described, "signature").values():
        _check_schema(schema)
    _part(described, "metadata")
    return described


def read_small(folder: Path, name: str) -> bytes:
    """A small file that lies in the folder itself: no link to elsewhere, no pipe. Raises OSError or MlmodelUnreadable."""
    real, path = folder.resolve(), (folder / name).resolve()
    if not path.is_relative_to(real):
        raise MlmodelUnreadable(f"{name} is a link to elsewhere.")
    with open_inside(real, path.relative_to(real).as_posix()) as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise MlmodelUnreadable(f"{name} is too big.")
    return content


def _check_events(text: str) -> None:
    """Refuse what makes gigabytes of a few lines: aliases, merges, depth, and numbers of many digits."""
    depth = 0
    for event in yaml.parse(text, _LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        word = event.value if isinstance(event, yaml.ScalarEvent) else ""
        plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0]
        if (
            isinstance(event, yaml.AliasEvent)
            or depth > _DEEPEST
            or getattr(event, "tag", None)
            or (plain and (word == "<<" or len(word) > _LARGEST_PLAIN))
        ):
            raise MlmodelUnreadable("It has aliases, merges or parts that are too long or nested too deeply.")


def _check_schema(schema: object) -> None:
    """A part of a signature: JSON in a text, or nothing."""
    if schema is None:
        return
    if not isinstance(schema, str) or len(schema) > _LARGEST_SCHEMA:
        raise MlmodelUnreadable("Its signature is not text, or is too long.")
    try:
        waiting = [(json.loads(schema), 0)]
    except (ValueError, RecursionError) as error:
        raise MlmodelUnreadable("Its signature cannot be read.") from error
    while waiting:
        part, depth = waiting.pop()
        if depth > 2 * _DEEPEST:
            raise MlmodelUnreadable("Its signature is nested too deeply.")
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        waiting += [(each, depth + 1) for each in inner]


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _part(mapping: Any, key: str) -> dict[str, Any]:
    """A mapping in a mapping; an empty one when it is not there."""
    part = mapping.get(key) if isinstance(mapping, dict) else None
    if part is not None and not _is_mapping(part):
        raise MlmodelUnreadable(f"Its MLmodel file has a part {key} that is not a mapping.")
    return part or {}
