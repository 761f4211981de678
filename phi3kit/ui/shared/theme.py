"""Theme: the colours that carry a meaning, for charts and badges.

A colour means one thing on every page: violet and green are the wrappers, grey and blue prompt and completion.
A remote endpoint has no colour of its own: its badge is gray.
"""

import streamlit as st

from phi3kit.core.records import Served
from phi3kit.usage.charts import Palette

# Each at least 3:1 against the background. Cached tokens are of the prompt: nearly its grey, and hatched.
LIGHT = Palette(
    transformers="#6b5bd6", onnx="#0f9d8a", prompt="#7a8699", completion="#4c5bd4", text="#10151f", grid="#dfe3ec",
    cached="#8791a3", neutral="#8a94a6", background="#ffffff",
)  # fmt: skip
DARK = Palette(
    transformers="#9c8cff", onnx="#35c9b4", prompt="#9aa6ba", completion="#8e9bff", text="#e6e9f2", grid="#2c3343",
    cached="#717b90", neutral="#8a94a6", background="#11141c",
)  # fmt: skip

WRAPPER_COLOURS: dict[Served, str] = {"transformers": "violet", "onnx": "green", "remote": "gray"}


def palette() -> Palette:
    """The colours of the theme that the viewer sees."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def on_primary(label: str, *, off: bool = False) -> str:
    """The label of a primary button: Streamlit's own is white in both themes, and white on a bright ground is not legible.

    The theme's orange is the ink of that ground and nothing else. off: of a button that is switched off; it has no ground.
    """
    return label if off else f":orange[{label}]"


def destructive(label: str) -> str:
    """The label of a button that deletes for good."""
    return f":red[{label}]"


def badge(wrapper: Served) -> str:
    """The badge of a wrapper, or of a remote endpoint, as Markdown."""
    return f":{WRAPPER_COLOURS[wrapper]}-badge[{wrapper}]"
