"""Early charts: a browser fetches Plotly, which Streamlit fetches when the first chart is drawn, before a page asks for it.

Plain ASGI: adds a header to the app's one HTML page. Knows where Streamlit's package keeps its scripts.
"""

from pathlib import Path

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class EarlyCharts:
    """Tells a browser of the 4.7 MB: at Usage's own address to fetch them at once, elsewhere when it has nothing else to do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        scripts = Path(st.__file__).parent / "static" / "static" / "js"
        self._script = next((f"./static/js/{path.name}" for path in scripts.glob("PlotlyChart.*.js")), None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                is_page = headers.get("content-type", "").startswith("text/html") and "/media/" not in scope["path"]
                if self._script and is_page:
                    kind = "modulepreload" if scope["path"].endswith("/usage") else "prefetch"
                    headers.append("Link", f"<{self._script}>; rel={kind}; as=script; crossorigin")
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)
