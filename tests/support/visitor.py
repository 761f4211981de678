"""A visitor of the app who draws nothing: what a browser says by HTTP and by Streamlit's socket, for what no browser is needed.

Knows Streamlit's messages. A page load in chromium takes seconds of a processor, and one of these a few hundredths.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import httpx2
from google.protobuf.message import Message
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

from tests.support.in_app import label_of, read


@dataclass
class Shown:
    """What one run of a page sends: its texts, its elements by kind, its menu's addresses, and where it leads."""

    texts: list[str] = field(default_factory=list)
    elements: list[tuple[str, Any]] = field(default_factory=list)
    menu: list[str] = field(default_factory=list)
    leads_to: str = ""

    @property
    def text(self) -> str:
        """All texts as a reader sees them, a line each."""
        return read("\n".join(self.texts))

    def labels(self, kind: str) -> list[str]:
        """Labels of the elements of a kind, such as button."""
        return [label_of(element) for each, element in self.elements if each == kind]


class Visitor:
    """Cookies, as one browser keeps them."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        self.url, self.headers = url, dict(headers or {})
        self.ways_back: list[str] = []  # from the provider, at the last sign-in
        self.http = httpx2.Client(headers=self.headers, follow_redirects=True, timeout=300)

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def cookie(self, name: str) -> str | None:
        """The value of a cookie."""
        return next((each.value for each in self.http.cookies.jar if each.name == name), None)

    def open(self, page: str = "", query: str = "") -> Shown:
        """What a page shows."""
        with self.tab() as tab:
            return tab.open(page, query)

    @contextmanager
    def tab(self, session: str = "") -> Iterator["Tab"]:
        """A tab: its session lasts as long as the block. session: of a tab that comes back."""
        self.http.get(f"{self.url}/_stcore/health")  # which gives a browser its token
        cookies = "; ".join(f"{each.name}={each.value}" for each in self.http.cookies.jar)
        with connect(
            f"{self.url.replace('http://', 'ws://')}/_stcore/stream",
            additional_headers={"Cookie": cookies, "Origin": self.url, **self.headers},
            subprotocols=["streamlit", self.cookie("_streamlit_xsrf") or "", *([session] if session else [])],  # type: ignore[list-item]
            max_size=None,
        ) as socket:
            yield Tab(socket)

    def sign_in(self, person: str) -> Shown:
        """Click Sign in, choose a person at the provider, come back; what Home shows then."""
        with self.tab() as tab:
            tab.open()
            leads_to = tab.click("Sign in").leads_to
        choice = self.http.get(urljoin(self.url, leads_to))
        assert "Who are you?" in choice.text
        back = self.http.get(choice.url, params={**dict(choice.url.params), "person": person})
        self.ways_back = [str(each.url) for each in back.history if "/oauth2callback?" in str(each.url)]
        return self.open()


class Tab:
    """One session."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._shown = Shown()
        self.session = ""  # its id, after the first page

    def open(self, page: str = "", query: str = "") -> Shown:
        """Go to a page."""
        message = BackMsg()
        message.rerun_script.query_string = query
        message.rerun_script.page_name = page
        return self._run(message)

    def click(self, label: str) -> Shown:
        """Click the button with this label, among those that were shown last."""
        (button,) = (each for kind, each in self._shown.elements if kind == "button" and label_of(each) == label)
        message = BackMsg()
        message.rerun_script.widget_states.widgets.add(id=button.id, trigger_value=True)
        return self._run(message)

    def _run(self, message: BackMsg) -> Shown:
        self._socket.send(message.SerializeToString())
        self._shown = shown = Shown()
        while True:
            sent = ForwardMsg.FromString(self._socket.recv(timeout=300))  # type: ignore[arg-type]
            kind = sent.WhichOneof("type")
            if kind == "script_finished" and sent.script_finished == ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                self._shown = shown = Shown()
            elif kind == "script_finished":
                return shown
            elif kind == "auth_redirect":
                shown.leads_to = sent.auth_redirect.url
            elif kind == "new_session":
                self.session = sent.new_session.initialize.session_id
            elif kind == "navigation":
                shown.menu = [each.url_pathname for each in sent.navigation.app_pages]
            elif kind == "delta":
                shown.texts += _texts(sent.delta)
                if sent.delta.WhichOneof("type") == "new_element":
                    element = sent.delta.new_element
                    shown.elements.append((of := element.WhichOneof("type") or "", getattr(element, of, None)))


def _texts(message: Message) -> Iterator[str]:
    for _, value in message.ListFields():
        for each in [value] if isinstance(value, str | Message) else value if hasattr(value, "__iter__") else ():
            if isinstance(each, str):
                yield each
            elif isinstance(each, Message):
                yield from _texts(each)
