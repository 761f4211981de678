"""Jobs: evaluations as processes of their own, one at a time.

Knows what an evaluation reports. Imports nothing that an evaluation needs.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from phi3kit.access.actor import Actor
from phi3kit.batch.events import RowProgress
from phi3kit.batch.jobs import keep_input
from phi3kit.core.data_folder import check_room
from phi3kit.core.settings import Settings
from phi3kit.evaluation.request import EMBEDDED_QUESTIONS, EvaluationRequest
from phi3kit.jobs import job_folder
from phi3kit.jobs.job_folder import Job
from phi3kit.jobs.job_list import JobList
from phi3kit.jobs.kinds import EVALUATIONS


@dataclass(frozen=True)
class EvaluationJob(Job):
    """An evaluation as it stands now."""

    request: EvaluationRequest
    progress: RowProgress | None
    run_id: str | None  # of the run that it logged


class EvaluationJobs(JobList[EvaluationJob]):
    """The evaluations of one data folder. A cancelled one logs nothing."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(EVALUATIONS, settings, _read)

    def start(self, request: EvaluationRequest, actor: Actor) -> EvaluationJob:
        """Start an evaluation, which waits for those before it.

        actor: who asks. Raises NotAllowed, LimitReached or StorageFailed.
        """
        actor.require("evaluate")
        check_room(self._settings)

        def request_in(folder: Path) -> EvaluationRequest:
            if request.data == EMBEDDED_QUESTIONS:
                return request
            return replace(request, data=str(keep_input(Path(request.data), folder, self._settings)))

        return self.launch(request_in, actor)


def _read(folder: Path) -> EvaluationJob:
    request = job_folder.read_request(folder, EvaluationRequest)
    lines = job_folder.read_lines(folder)
    at = job_folder.read_progress(folder)
    return EvaluationJob(
        **vars(EVALUATIONS.job(folder, lines, "Nothing was logged.", "Evaluate again.")),
        request=request,
        progress=RowProgress(**at) if at else None,
        run_id=next((line["run_id"] for line in lines if "run_id" in line), None),
    )
