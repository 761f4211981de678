"""What the app and its workers need, started from nothing, when both wrappers have answered and Usage was drawn."""

from pathlib import Path

import psutil
import pytest

from tests.conftest import Built
from tests.support.in_browser import go, needs_browser, running_app, send, tab_on
from tests.support.samples import copy_of_store

pytestmark = [*needs_browser, pytest.mark.slow]

pytest.importorskip("playwright.sync_api")


@pytest.mark.usefixtures("cold_python")
def test_app_and_both_workers_need_less_than_750_megabytes_of_their_own(built: Built, tmp_path: Path) -> None:
    copy_of_store(built.settings, tmp_path / "home")
    with running_app(tmp_path / "home") as app, tab_on(f"{app.url}/compare", tmp_path / "profile") as page:
        send(page, "What is the capital of Spain?")
        page.get_by_role("button", name="Tie").wait_for()  # both have answered
        go(page, "Usage")
        process = psutil.Process(app.pid)
        everyone = [process, *process.children(recursive=True)]
        servers = [each for each in everyone if "phi3kit.worker" in each.cmdline()]
        assert len(servers) == 2
        # Without the pages of libraries' files, which the system lends and takes back: a fresh installation's processes
        # show more of them than an old one's, for the same work.
        used = [each.memory_info() for each in everyone]
        megabytes = [(each.rss - each.shared) / 1e6 for each in used]
        assert sum(megabytes) <= 750, megabytes
