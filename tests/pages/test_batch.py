"""Batch, Evaluate and Tour through Streamlit's own test runner: a real store, real child processes, real workers."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.batch.jobs import BatchJob
from phi3kit.core.settings import Settings
from phi3kit.evaluation.jobs import EvaluationJob
from phi3kit.tracking.model_uris import canonical
from phi3kit.ui.shared import resources
from phi3kit.ui.tour.chapter import STEPS
from tests.pages.test_jobs import job
from tests.security.test_hostile_tables import BIG, dictionary
from tests.support.actors import ADMIN
from tests.support.in_app import app_on, click, errors, label_of, open_page, words
from tests.support.waiting import wait_for


def upload(app: AppTest, name: str, content: str | bytes) -> AppTest:
    data = content if isinstance(content, bytes) else content.encode()
    app = app.file_uploader[0].set_value((name, data, "text/csv")).run()
    assert not app.exception, app.exception
    return app


def ended_batch() -> BatchJob:
    def ended() -> BatchJob | None:
        jobs = resources.kit().batches.all()
        return jobs[0] if jobs and not jobs[0].active else None

    return wait_for("the batch's end", ended)


def ended_evaluation() -> EvaluationJob:
    def ended() -> EvaluationJob | None:
        job = resources.kit().evaluations.latest(ADMIN)
        return None if job is None or job.active else job

    return wait_for("the evaluation's end", ended)


class TestBatch:
    def test_an_uploaded_table_is_answered_and_its_failed_row_says_why(self, store: Settings) -> None:
        app = upload(open_page("batch"), "in.csv", "id,message\n1,What is the capital of Spain?\n2,\n")
        assert "2 rows" in words(app)
        click(app, "Answer 2 rows")
        job = ended_batch()
        assert job.error is None
        app = open_page("batch")
        shown = {metric.label: metric.value for metric in app.metric}
        assert (shown["Rows"], shown["Failed"]) == ("2", "1")
        (table,) = [each.value for each in app.dataframe if "completion" in each.value.columns]
        assert table["error"][1].startswith("The message is empty.")

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("What is the capital of Spain?\nAnd of France?\n", None),
            ("message\nスペイン\n".encode("cp932"), "is not in utf-8"),
            (b"", "is empty"),
            (b"message,completion\na,b\n", "already has a column completion"),
        ],
    )
    def test_a_table_that_cannot_be_used_is_explained(
        self, store: Settings, content: str | bytes, said: str | None
    ) -> None:
        app = upload(open_page("batch"), "in.csv", content)
        if said is None:  # the page asks which column it is; the first line shows that there is no header
            assert next(each for each in app.selectbox if each.label == "Prompt column").value.startswith("What is")
        else:
            assert any(said in each for each in errors(app))

    def test_a_stopped_batch_goes_on_by_a_click(self, store: Settings) -> None:
        # Short answers, and many: the first ones come soon, the last ones not before it is stopped.
        content = "message\n" + "What is the capital of Spain?\n" * 1000
        click(upload(open_page("batch"), "in.csv", content), "Answer 1,000 rows")
        wait_for("some rows", lambda: (at := resources.kit().batches.all()[0].progress) and at.done >= 1, 200)
        reloaded = open_page("batch")  # a new session, as after a reload
        click(reloaded, "Stop")
        assert resources.kit().batches.all()[0].state == "cancelled"
        click(open_page("batch"), "Resume")
        jobs = resources.kit().batches.all()
        assert len(jobs) == 2
        assert jobs[0].request.input.samefile(jobs[1].request.input)
        click(open_page("batch"), "Stop")


def unfolded(app: AppTest) -> AppTest:
    """The page with its first prompt open: only then it is read."""
    assert not app.code
    app.session_state["batch_first_prompt"] = True
    return app.run()


class TestColumns:
    def test_the_page_says_which_columns_it_expects(self, store: Settings) -> None:
        assert "one column of prompts: `message`" in words(open_page("batch"))

    def test_a_column_is_guessed_by_its_content_and_can_be_changed(self, store: Settings) -> None:
        def said(app: AppTest) -> tuple[str, str, str]:
            by_label = {each.label: each.value for each in app.selectbox}
            return by_label["Prompt column"], by_label["Format"], app.code[0].value

        app = unfolded(upload(open_page("batch"), "in.csv", "id,prompt\n1,What is the capital of Spain?\n"))
        asked = "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>"  # Streamlit draws no last line break
        assert said(app) == ("prompt", "message", asked)
        app = next(each for each in app.selectbox if each.label == "Format").set_value("prompt").run()
        assert said(app) == ("prompt", "prompt", "What is the capital of Spain?")
        app = next(each for each in app.selectbox if each.label == "Prompt column").set_value("id").run()
        assert said(app) == ("id", "message", "<|user|>\n1<|end|>\n<|assistant|>")

    def test_a_first_row_without_a_prompt_is_an_error_and_no_obstacle(self, store: Settings) -> None:
        app = unfolded(upload(open_page("batch"), "in.csv", "id,message\n1,\n2,Hi\n"))
        assert "The message is empty." in errors(app)[0]
        assert not next(each for each in app.button if label_of(each) == "Answer 2 rows").disabled


class TestBigTables:
    def test_of_an_uploaded_table_so_much_is_drawn_as_a_browser_can_hold(self, store: Settings, tmp_path: Path) -> None:
        content = dictionary(tmp_path / "in.parquet").read_bytes()
        app = upload(open_page("batch"), "in.parquet", content)
        (drawn,) = [each.value for each in app.dataframe]
        assert list(drawn["message"]) == ["x" * 2000 + "…"] * 5
        assert "The first 5 of 300 rows. Cells are cut off after 2,000 characters." in words(app)

    @pytest.mark.parametrize(("copies", "drawn_rows", "downloads"), [(120, 120, 0), (2, 2, 1)])
    def test_of_an_output_too_and_a_file_that_fills_memory_is_not_downloaded(
        self, tmp_path: Path, copies: int, drawn_rows: int, downloads: int
    ) -> None:
        with app_on(tmp_path):
            request = {"model_uri": "models:/m-x", "input": "in.csv", "output": "out.csv"}
            summary = {"output": "out.csv", "rows": copies, "computed": copies, "kept": 0, "failed": 0, "prompt_tokens": 1,
                       "completion_tokens": 1, "seconds": 1.0, "tokens_per_s": 1.0}  # fmt: skip
            end = {"event": "end", "state": "done", "seconds": 1.0, "error": None}
            job_id = job(tmp_path, "batches", request, "local", summary, end)
            output = tmp_path / "batches" / job_id / "out.csv"
            write_owner_output(output.parent, request | {"output": str(output)})
            with output.open("w") as file:
                file.write("message,completion,prompt_tokens,completion_tokens,finish_reason,error\n")
                for _ in range(copies):
                    file.write(f"{BIG},Hi,1,1,stop,\n")
            app = open_page("batch")
            (drawn,) = [each.value for each in app.dataframe if "completion" in each.value.columns]
            assert list(drawn["message"]) == ["x" * 2000 + "…"] * drawn_rows
            assert "Cells are cut off after 2,000 characters. The file is complete." in words(app)
            assert len(app.get("download_button")) == downloads
            refused = "The file has 120 MB; the download limit is 100 MB." in words(app)
            assert refused == (downloads == 0)
            assert (f"batches/{job_id}/out.csv" in words(app)) == refused


def write_owner_output(folder: Path, request: dict[str, str]) -> None:
    """Name in a job's file where its output lies."""
    owner = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps(owner | {"request": request}))


class TestEvaluate:
    def test_a_model_is_evaluated_and_becomes_champion(self, store: Settings, tmp_path: Path) -> None:
        app = open_page("evaluate")
        next(each for each in app.segmented_control if each.label == "Questions").set_value("upload").run()
        table = (
            "message,expected\nWhat is the capital of Spain?,The capital of Spain is Madrid.\nHello,nothing like it\n"
        )
        click(upload(app, "in.csv", table), "Evaluate")
        job = ended_evaluation()
        assert job.error is None
        app = open_page("evaluate")
        shown = {metric.label: metric.value for metric in app.metric}
        assert shown["Exact, A"] == "50.0%"
        wrong = app.dataframe[-1].value
        assert list(wrong["question"]) == ["Hello"]
        click(app, "Point phi3@champion to it")
        evaluated = resources.kit().evaluations.latest(ADMIN)
        assert evaluated is not None
        assert canonical("models:/phi3@champion", store) == canonical(evaluated.request.model_uri, store)


class TestTour:
    def test_every_step_is_shown_in_the_chapters_order(self, store: Settings) -> None:
        app = open_page("tour")
        for number, step in enumerate(STEPS, start=1):
            assert [each.value for each in app.header] == [step.title]
            if number < len(STEPS):
                app = click(app, "Next:")

    @pytest.mark.parametrize(("title", "said"), [("Ask with messages", "Madrid"), ("Ask with a raw prompt", "atom")])
    def test_both_wrappers_are_asked_by_plain_mlflow(self, store: Settings, title: str, said: str) -> None:
        app = open_page("tour")
        number = next(number for number, step in enumerate(STEPS) if step.title == title)
        app = next(each for each in app.selectbox if each.label == "Step").set_value(number).run()
        app = click(app, "Run this step")
        assert any(said in each.value for each in app.text)
