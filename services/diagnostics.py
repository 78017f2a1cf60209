"""What the platform knows about ``diagnostics``."""

from typing import Final

from domain.diagnostics import NoopInput
from services.kinds import JobKind
from workflows.diagnostics import NOOP_WORKFLOW, TASK_QUEUE

NOOP: Final = JobKind(
    name="diagnostics.noop",
    input_model=NoopInput,
    workflow=NOOP_WORKFLOW,
    task_queue=TASK_QUEUE,
    summary=lambda _input: "Nothing, to prove that everything works",
)
