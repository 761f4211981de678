"""Wheel: what `pip install .` installs beside phi3kit is what requirements.txt names."""

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Requirements(MetadataHookInterface):
    """Dependencies and extras from the files that `make setup` and Streamlit Community Cloud read."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add them to the project's metadata."""
        metadata["dependencies"] = self._lines("requirements.txt")
        metadata["optional-dependencies"] = {"spark": self._lines("requirements-spark.txt")}

    def _lines(self, name: str) -> list[str]:
        lines = (Path(self.root) / name).read_text("utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")]
