"""An eye on what jobs cost: one alert a job, as an event, a log line and a count."""

from collections.abc import Sequence
from decimal import Decimal

import structlog

from core.database import Database, Statement
from core.metrics import WorkerMetrics
from domain.jobs import JobRef
from repositories.costs import CostDesk, alert_of, alert_statement
from repositories.rows import AnyRow

_log = structlog.get_logger(__name__)


class CostWatch:
    """Tells once of every job that has spent ``alert_usd`` or more; None: of none."""

    def __init__(self, database: Database, metrics: WorkerMetrics, *, alert_usd: Decimal | None) -> None:
        self._desk = CostDesk(database)
        self._metrics = metrics
        self._alert_usd = alert_usd

    async def look(self, job: JobRef) -> None:
        """Look at the job after a call of it was settled. Of two calls that end at once, the second sees both."""
        if self._alert_usd is not None:
            self._tell(job, await self._desk.alert(job, threshold_usd=self._alert_usd))

    def question(self, job: JobRef) -> tuple[Statement, ...]:
        """To look within the transaction that settles the call: the statement for it, whose rows ``hear`` wants."""
        return () if self._alert_usd is None else (alert_statement(job, threshold_usd=self._alert_usd),)

    def hear(self, job: JobRef, answers: Sequence[Sequence[AnyRow]]) -> None:
        """Tell of what the statements of ``question`` have found."""
        for rows in answers:
            self._tell(job, alert_of(rows))

    def _tell(self, job: JobRef, spent: Decimal | None) -> None:
        if spent is not None:
            self._metrics.count_cost_alert(kind=job.kind)
            _log.warning("cost.alert", kind=job.kind, usd=f"{spent:f}", threshold_usd=f"{self._alert_usd:f}")
