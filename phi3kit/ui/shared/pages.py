"""Pages: the section, title and icon of every page, and what it is for.

Known to the menu and to links. Knows nothing of what a page draws.
"""

from dataclasses import dataclass

import streamlit as st


@dataclass(frozen=True)
class Entry:
    """A page in the menu."""

    section: str
    title: str
    symbol: str  # a Material symbol
    help: str  # the tooltip, in the menu and on links

    @property
    def icon(self) -> str:
        """The symbol as Streamlit's elements take it."""
        return f":material/{self.symbol}:"


PAGES = {
    "home": Entry("", "Home", "home", "What this is, what exists now, and the next step."),
    "build": Entry(
        "Package", "Build", "deployed_code", "Package Phi-3 weights as an MLflow model with either wrapper."
    ),
    "models": Entry("Package", "Models", "inventory_2", "Logged models, registered versions, aliases, loaded workers."),
    "signatures": Entry("Package", "Signatures", "schema", "What each wrapper accepts and returns, field by field."),
    "chat": Entry("Talk", "Chat", "forum", "Talk to a model with OpenAI messages; conversations are kept."),
    "prompt": Entry("Talk", "Prompt", "code_blocks", "Send a raw prompt, and see it as tokens and as messages."),
    "compare": Entry("Talk", "Compare", "compare_arrows", "Send one message to two or three models at once, and vote."),
    "usage": Entry("Measure", "Usage", "monitoring", "Tokens, speed, latency and cost of the logged turns."),
    "batch": Entry("Measure", "Batch", "table_rows", "Answer every row of a table."),
    "evaluate": Entry("Measure", "Evaluate", "fact_check", "Score answers against expected ones; compare two models."),
    "deploy": Entry("Hand over", "Deploy", "rocket_launch", "Serve a model here, in containers, or on Azure ML."),
    "access": Entry("Hand over", "Access", "key", "Your role and limits, API keys, and the data folder."),
    "tour": Entry("Hand over", "Tour", "signpost", "The chapter's steps in order, each one runnable here."),
}


def path(name: str) -> str:
    """The path of a page as the router names it."""
    return f"pages/{name}.py"


def link(name: str, label: str, query_params: dict[str, str] | None = None) -> None:
    """A link to a page, with the page's icon."""
    st.page_link(path(name), label=label, icon=PAGES[name].icon, query_params=query_params)
