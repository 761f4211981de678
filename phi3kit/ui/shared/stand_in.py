"""Stand-in: what the embedded model is, and the way from it to the real Phi-3; on Home and Chat.

Knows what is said of it. Knows no model.
"""

from phi3kit.ui.shared import pages, permissions, words

KNOWS = "It knows capitals, MLflow, Phi-3 and this app, in English, Japanese and Greek"


def link_to_the_real_one() -> None:
    """To Build, where a Phi-3 from the hub is chosen; for those who may build it."""
    if permissions.may("build_any"):
        pages.link("build", "Build the real Phi-3", {"build_source": words.HUGGING_FACE})
