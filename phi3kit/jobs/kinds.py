"""Job kinds: each kind of long work with its folder and its error.

Knows names. Knows nothing of the work.
"""

from phi3kit.core.errors import BatchFailed, BuildFailed
from phi3kit.jobs.job_folder import JobKind

BUILDS = JobKind("builds", "build", BuildFailed)
BATCHES = JobKind("batches", "batch", BatchFailed)
EVALUATIONS = JobKind("evaluations", "evaluation", BatchFailed)
JOB_KINDS = (BUILDS, BATCHES, EVALUATIONS)
