"""phi3kit's entry: the router. Start it with `make run`, or `streamlit run streamlit_app.py`."""

import streamlit as st

from phi3kit.core.machine import keep_heap_whole
from phi3kit.ui.shared import shell, sign_in, web


def route() -> None:
    """Every page by its name, the sidebar, and the page that was asked for; the way in for who is outside."""
    st.set_page_config(page_title="phi3kit", page_icon=shell.ICON, layout="wide")

    st.session_state["routed"] = True  # see shell.begin
    outside = sign_in.is_outside()
    chosen = st.navigation(
        {
            "": [st.Page("pages/home.py", title="Home", icon=":material/home:", default=True)],
            "Package": [
                st.Page("pages/build.py", title="Build", icon=":material/deployed_code:"),
                st.Page("pages/models.py", title="Models", icon=":material/inventory_2:"),
                st.Page("pages/signatures.py", title="Signatures", icon=":material/schema:"),
            ],
            "Talk": [
                st.Page("pages/chat.py", title="Chat", icon=":material/forum:"),
                st.Page("pages/prompt.py", title="Prompt", icon=":material/code_blocks:"),
                st.Page("pages/compare.py", title="Compare", icon=":material/compare_arrows:"),
            ],
            "Measure": [
                st.Page("pages/usage.py", title="Usage", icon=":material/monitoring:"),
                st.Page("pages/batch.py", title="Batch", icon=":material/table_rows:"),
                st.Page("pages/evaluate.py", title="Evaluate", icon=":material/fact_check:"),
            ],
            "Hand over": [
                st.Page("pages/deploy.py", title="Deploy", icon=":material/rocket_launch:"),
                st.Page("pages/access.py", title="Access", icon=":material/key:"),
                st.Page("pages/tour.py", title="Tour", icon=":material/signpost:"),
            ],
        },
        position="hidden" if outside else "sidebar",
        expanded=True,
    )
    if outside:
        sign_in.show()
    else:
        with st.sidebar, shell.errors_shown():
            sign_in.person()
            shell.status()
        chosen.run()


if __name__ == "__main__":  # Streamlit runs this file as a script, once for each visit and click
    route()
else:  # and its server imports it before, once, and finds the application here
    keep_heap_whole()
    app = st.App(__file__, middleware=web.middleware(), on_script_error=web.on_script_error)
