"""Job kinds: the kinds of long work that there are, and the folder of each.

Knows names and each kind's own error. Knows nothing of how the work is done.
"""

from phi3kit.core.errors import BatchFailed, BuildFailed
from phi3kit.jobs.job_folder import JobKind

BUILDS = JobKind("builds", "build", BuildFailed)
BATCHES = JobKind("batches", "batch", BatchFailed)
EVALUATIONS = JobKind("evaluations", "evaluation", BatchFailed)
JOB_KINDS = (BUILDS, BATCHES, EVALUATIONS)
