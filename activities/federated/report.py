"""What is left of a cycle when it is over: its result, and a plot of accuracy and participation."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from core.ids import new_id
from core.store import ArtifactStore
from domain.artifacts import Artifact, ArtifactRole
from domain.jobs import JobRef
from domain.model import Frozen
from repositories.rows import AnyRow


class RoundFigures(Frozen):
    """What a plot shows of one round."""

    number: int
    leased: int
    """How many participants were given a place."""
    accepted: int
    state: str
    metrics: dict[str, float]


class Drawing(Frozen):
    """One file of a plot."""

    name: str
    media_type: str
    body: bytes


Plotter = Callable[[str, Sequence[RoundFigures]], Sequence[Drawing]]
"""Draws a model's rounds; nothing where the libraries for it are not installed. Blocking."""


def no_plot(_model: str, _rounds: Sequence[RoundFigures]) -> Sequence[Drawing]:
    """The plotter of a process without the ``federated`` extra."""
    return ()


class CycleReport:
    """Makes results and plots."""

    def __init__(self, store: ArtifactStore, plot: Plotter) -> None:
        self._store = store
        self._plot = plot

    async def draw(self, job: JobRef, model: str, rows: Sequence[AnyRow]) -> list[Artifact]:
        """The plots, stored but not yet named in the database."""
        figures = [
            RoundFigures(
                number=row.number,
                leased=row.handed_out,
                accepted=row.accepted,
                state=row.state,
                metrics=row.metrics or {},
            )
            for row in rows
        ]
        drawings = await asyncio.to_thread(self._plot, model, figures)
        return [await self._keep(job, drawing) for drawing in drawings]

    async def _keep(self, job: JobRef, drawing: Drawing) -> Artifact:
        sha256 = await self._store.put(job.tenant_id, drawing.body)
        return Artifact(
            id=new_id(),
            tenant_id=job.tenant_id,
            job_id=job.job_id,
            name=drawing.name,
            media_type=drawing.media_type,
            bytes=len(drawing.body),
            sha256=sha256,
            role=ArtifactRole.EXPORT,
        )

    def result(self, model: str, head: AnyRow, rows: Sequence[AnyRow], artifacts: Sequence[Artifact]) -> dict[str, Any]:
        """What ``GET /jobs/{id}/result`` hands out."""
        ends = [row.state for row in rows]
        return {
            "model": model,
            "head": {"version": head.number, "sha256": head.sha256, "metrics": head.metrics},
            "rounds": len(rows),
            "published": ends.count("published"),
            "rejected": ends.count("rejected"),
            "abandoned": ends.count("abandoned"),
            "updates": sum(row.accepted for row in rows),
            "artifacts": [
                {"id": str(one.id), "name": one.name, "media_type": one.media_type, "bytes": one.bytes,
                 "sha256": one.sha256, "url": f"/api/v1/artifacts/{one.id}"}
                for one in artifacts
            ],
        }  # fmt: skip
