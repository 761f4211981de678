"""Uploads: nobody's table is another's to push out, and a tab holds so many files and no more."""

import os
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec

from phi3kit.batch import jobs
from phi3kit.batch.jobs import find_upload, keep_input, keep_upload
from phi3kit.core.settings import Settings
from phi3kit.jobs.kinds import BATCHES
from phi3kit.ui.shared.web import BoundedUploads
from tests.conftest import settings_for
from tests.support.actors import admin

ADA, EVE = admin("ada"), admin("eve")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "home")


class TestKept:
    def test_one_persons_uploads_leave_another_persons(self, settings: Settings) -> None:
        adas = keep_upload("in.csv", b"message\nHello\n", ADA, settings)
        eves = [keep_upload("in.csv", f"message\n{number}\n".encode(), EVE, settings) for number in range(25)]
        assert adas.read_bytes() == b"message\nHello\n"
        assert sum(each.exists() for each in eves) == 20

    def test_the_same_file_of_two_people_is_two(self, settings: Settings) -> None:
        assert keep_upload("in.csv", b"a", ADA, settings) != keep_upload("in.csv", b"a", EVE, settings)

    def test_one_is_found_again_by_who_uploaded_it(self, settings: Settings) -> None:
        adas = keep_upload("in.csv", b"a", ADA, settings)
        (adas.parent / "in.csv.part").write_bytes(b"a draft")
        name = adas.parent.name
        assert find_upload(name, ADA, settings) == adas
        assert find_upload(name, EVE, settings) is None
        again = keep_upload("other.tsv", b"a", ADA, settings)
        os.utime(again, (2_000_000_000, 2_000_000_000))
        assert find_upload(name, ADA, settings) == again, "of one content, the newest"
        for nonsense in ("", "..", f"../{adas.parent.parent.name}/{name}", f"{name}\n", name.upper() + "g", "0" * 16):
            assert find_upload(nonsense, ADA, settings) is None, nonsense

    def test_big_ones_make_room_earlier(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs, "_UPLOADED_BYTES_KEPT", 250)
        kept = [keep_upload("in.csv", bytes([number]) * 100, ADA, settings) for number in range(4)]
        for number, each in enumerate(kept):
            if each.exists():
                os.utime(each.parent, (number, number))
        assert [each.exists() for each in kept] == [False, False, True, True]

    def test_a_queued_table_outlives_its_upload(self, settings: Settings) -> None:
        file = keep_upload("in.csv", b"message\nHello\n", ADA, settings)
        folder = BATCHES.new_folder(settings)
        kept = keep_input(file, folder, settings)
        for number in range(25):
            keep_upload("in.csv", f"message\n{number}\n".encode(), ADA, settings)
        assert not file.exists()
        assert kept.read_bytes() == b"message\nHello\n"
        assert kept.is_relative_to(folder)

    def test_one_that_vanishes_while_it_is_looked_at_is_in_nobodys_way(self, settings: Settings) -> None:
        mine = keep_upload("in.csv", b"a", ADA, settings).parent.parent
        (mine / "gone").symlink_to("nowhere")
        assert keep_upload("in.csv", b"b", ADA, settings).read_bytes() == b"b"

    def test_a_table_elsewhere_stays_where_it_is(self, settings: Settings, tmp_path: Path) -> None:
        mine = tmp_path / "mine.csv"
        assert keep_input(mine, tmp_path / "job", settings) == mine


class TestHeldByATab:
    """Streamlit keeps what is uploaded in memory, for as long as the tab lives."""

    @pytest.fixture
    def client(self) -> TestClient:
        manager = MemoryUploadedFileManager("/_stcore/upload_file")

        async def put(request: Request) -> Response:
            session, file = request.path_params["session"], request.path_params["file"]
            body = await request.body()
            manager.add_file(session, UploadedFileRec(file_id=file, name="in.csv", type="text/csv", data=body))
            return Response(status_code=204)

        app = Starlette(routes=[Route("/_stcore/upload_file/{session}/{file}", put, methods=["PUT"])])
        return TestClient(BoundedUploads(app, most_bytes=100, held=lambda: manager, uploader=lambda tab, scope: tab))

    def put(self, client: TestClient, place: str, size: int) -> int:
        return client.put(f"/_stcore/upload_file/{place}", content=b"x" * size).status_code

    def test_so_many_files(self, client: TestClient) -> None:
        assert [self.put(client, f"tab/{number}", 1) for number in range(12)] == [204] * 10 + [413] * 2
        assert self.put(client, "other/1", 1) == 204

    def test_so_many_bytes(self, client: TestClient) -> None:
        assert [self.put(client, f"tab/{number}", 90) for number in range(4)] == [204, 204, 413, 413]

    def test_the_same_file_again_takes_its_place(self, client: TestClient) -> None:
        assert [self.put(client, "tab/1", 90) for _ in range(5)] == [204] * 5

    def test_all_tabs_together(self, client: TestClient) -> None:
        assert [self.put(client, f"{number}/1", 100) for number in range(25)].count(413) == 5

    def test_a_body_without_a_length_counts_as_the_biggest(self, client: TestClient) -> None:
        assert [self.put(client, f"tab/{number}", 60) for number in (1, 2)] == [204, 204]
        told = client.put("/_stcore/upload_file/tab/3", content=iter([b"x" * 10]))
        assert (told.status_code, told.text) == (413, "This tab holds too many files. Load the page again.")
