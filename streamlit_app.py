"""phi3kit's entry: the router. Start it with `make run`, or `streamlit run streamlit_app.py`."""

from typing import Any

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from phi3kit.core.data_folder import keep_private
from phi3kit.core.machine import keep_heap_whole, keep_loaded_out_of_collections
from phi3kit.ui.shared import pages, shell, sign_in, web


def route() -> None:
    """Draw the menu, the sidebar and the chosen page; for somebody outside, the way in."""
    # Until the store is open; later runs have the page's title already.
    st.set_page_config(
        page_title=None if st.session_state.setdefault("titled", False) else "phi3kit",
        page_icon=shell.ICON,
        layout="wide",
    )
    st.logo(shell.LOGO, icon_image=shell.ICON, size="large")
    outside = sign_in.is_outside()
    menu: dict[str, list[st.Page]] = {}
    for name, entry in pages.PAGES.items():
        first: dict[str, Any] = {"default": True, "url_path": "root"} if name == "home" else {}
        page = st.Page(pages.path(name), title=entry.title, icon=entry.icon, help=entry.help, **first)
        menu.setdefault(entry.section, []).append(page)
    # Streamlit has the first page at the app's root and nowhere else. It is at /home too.
    menu[""].append(st.Page(pages.path("home"), title="Home", url_path="home", visibility="hidden"))
    chosen = st.navigation(menu, position="hidden" if outside else "sidebar", expanded=True)
    st.set_page_config(page_title="phi3kit" if outside else f"{chosen.title} · phi3kit")
    st.session_state["titled"] = True
    if outside:
        sign_in.show_outside()
    else:
        with st.sidebar, shell.errors_shown():
            sign_in.show_person()
            shell.show_status()
        chosen.run()


if __name__ == "__main__":  # Streamlit runs this file as a script, once for each visit and click
    route()
else:  # and its server imports it before, once, and finds the application here
    keep_private()
    web.check_address()
    keep_heap_whole()
    keep_loaded_out_of_collections()
    # Streamlit takes pages/ for its older kind of app until st.navigation was called once: without this, the first
    # visitor of a new server who comes by a link to a page would get that page without the router.
    PagesManager.uses_pages_directory = False
    app = st.App(__file__, middleware=web.middleware(), on_script_error=web.on_script_error)
