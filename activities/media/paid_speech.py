"""Paid speech: reserved before the wire is touched, looked for in the history before it is paid for again."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import structlog

from activities.generation.calls import look_pauses
from activities.generation.costs import CostWatch
from activities.heartbeat import leave_if_canceled
from activities.steps import StepKeeper
from core.database import Database
from core.metrics import WorkerMetrics
from core.store import ArtifactStore
from domain.artifacts import store_key
from domain.errors import Outcome, ProviderError, SpeechUnavailable
from domain.generation import TokenUsage
from domain.jobs import JobRef
from domain.media import SpeechModel, SpeechProvider, SpeechRequest, Spoken
from domain.model import Frozen
from repositories.generation import SENDING, CallDesk, NewCall
from repositories.leases import Lease, LeaseDesk
from repositories.rows import AnyRow

_log = structlog.get_logger(__name__)

_LOOK_PAUSES_SECONDS: Final = (0.0, 5.0, 15.0, 30.0)
_SETTLED_SECONDS: Final = 180.0
"""A provider may still be speaking when we come back. Its history is read this often, and until so long after the text
was sent, before it is sent again."""

_LEASE: Final = timedelta(seconds=60)
_OPEN: Final = (SENDING, Outcome.UNKNOWN)


class SpokenPiece(Frozen):
    """A recording of a piece of a text: in our store, paid for, and on record."""

    sha256: str
    media_type: str
    characters: Decimal
    cost_usd: Decimal
    request_id: str | None


@dataclass(frozen=True, slots=True)
class PieceWish:
    """A piece of a text to be spoken. ``op`` identifies the effect: it is paid for once."""

    op: str
    step: str
    request: SpeechRequest
    terms: SpeechModel

    @property
    def part(self) -> str:
        """Where the job remembers it."""
        return f"call/{self.op[:16]}"


class PaidSpeech:
    """One recording for one op, however often the activity around it is tried."""

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        keeper: StepKeeper,
        metrics: WorkerMetrics,
        *,
        look_pauses_seconds: Sequence[float] = _LOOK_PAUSES_SECONDS,
        settled_seconds: float = _SETTLED_SECONDS,
        watch: CostWatch | None = None,
    ) -> None:
        self._watch = watch
        self._store = store
        self._keeper = keeper
        self._desk = CallDesk(database)
        self._leases = LeaseDesk(database)
        self._metrics = metrics
        self._look_pauses_seconds = look_pauses_seconds
        self._settled_seconds = settled_seconds

    async def speak(self, job: JobRef, provider: SpeechProvider, wish: PieceWish) -> SpokenPiece:
        """The recording, paid for once. Raises ProviderError, SpeechUnavailable and BudgetExceeded."""
        before = await self._desk.get_before(job, wish.op)
        if before.state == Outcome.DONE:
            kept = await self._keeper.recall(job, wish.part, wish.op)
            if kept is not None:
                return SpokenPiece.model_validate(kept)
        # An earlier send stays in doubt, whatever was said to a later one.
        doubted = before.state in _OPEN or bool(before.lost_usd)
        spoken = await self._look(job, provider, wish, before) if doubted else None
        if spoken is None:
            lease = Lease(job, provider.name, f"{job.job_id}/{wish.op}", provider.at_once, _LEASE)
            async with self._leases.hold(lease):
                leave_if_canceled()
                if await self._reserve(job, provider, wish, budgeted=before.budget_usd is not None):
                    spoken = await self._send(job, provider, wish)
        if spoken is None:
            # Another attempt, on its way out, has just brought the recording home.
            return await self.speak(job, provider, wish)
        return await self._settle(job, provider, wish, spoken)

    async def read(self, job: JobRef, piece: SpokenPiece) -> bytes:
        """The bytes of a piece. Raises NotFound."""
        return await self._store.get(store_key(job.tenant_id, piece.sha256))

    async def _look(self, job: JobRef, provider: SpeechProvider, wish: PieceWish, before: AnyRow) -> Spoken | None:
        """The recording of an earlier send whose outcome nobody knows. Raises ProviderError where it stays unknown."""
        if not provider.can_look_up:
            return None
        for pause in self._pauses(before.quiet_for.total_seconds()):
            await asyncio.sleep(pause)
            found = await provider.find(wish.request, since=before.created_at)
            if found is not None:
                _log.info("call.found_again", op=wish.op, provider=provider.name)
                return found
        # Nothing there: the text is sent once more. Twice without a trace is no bad luck any more, and a person
        # decides; running the job again is such a decision, and allows one more.
        lost = before.lost_usd / before.reserved_usd if before.reserved_usd else Decimal(0)
        if lost + (before.state in _OPEN) > job.attempt:
            raise ProviderError(
                "the text was sent more than once, and the provider's history has nothing of it",
                code=f"E.{provider.name.upper()}.IN_DOUBT",
                outcome=Outcome.UNKNOWN,
                retryable=False,
            )
        return None

    def _pauses(self, quiet_seconds: float) -> Iterator[float]:
        """How long to wait before each look at a call of which nothing was heard for so long."""
        return look_pauses(
            self._look_pauses_seconds, quiet_seconds=quiet_seconds, settled_seconds=self._settled_seconds
        )

    async def _reserve(self, job: JobRef, provider: SpeechProvider, wish: PieceWish, *, budgeted: bool) -> bool:
        worst = wish.terms.cost_of(len(wish.request.text))
        call = NewCall(op=wish.op, step=wish.step, provider=provider.name, model=wish.request.model, reserved_usd=worst)
        return await self._desk.reserve(job, call, budgeted=budgeted)

    async def _send(self, job: JobRef, provider: SpeechProvider, wish: PieceWish) -> Spoken:
        try:
            return await provider.speak(wish.request)
        except (ProviderError, SpeechUnavailable) as error:
            outcome = error.outcome if isinstance(error, ProviderError) else Outcome.NOT_SENT
            await self._desk.close(job, op=wish.op, outcome=outcome)
            self._metrics.count_model_call(provider=provider.name, model=wish.request.model, outcome=outcome.value)
            raise

    async def _settle(self, job: JobRef, provider: SpeechProvider, wish: PieceWish, spoken: Spoken) -> SpokenPiece:
        # The bytes first: once the call is on record as done nobody asks the provider for them again.
        piece = SpokenPiece(
            sha256=await self._store.put(job.tenant_id, spoken.audio),
            media_type=spoken.media_type,
            characters=spoken.characters,
            cost_usd=wish.terms.cost_of(spoken.characters),
            request_id=spoken.request_id,
        )
        answer: dict[str, Any] = piece.model_dump(mode="json")
        await self._desk.settle(
            job, op=wish.op, part=wish.part, answer=answer, usage=TokenUsage(), cost_usd=piece.cost_usd
        )
        who = {"provider": provider.name, "model": wish.request.model}
        self._metrics.count_model_call(**who, outcome=Outcome.DONE.value)
        self._metrics.count_usage(**who, input_tokens=0, output_tokens=0, usd=float(piece.cost_usd), kind=job.kind)
        if piece.cost_usd and self._watch is not None:
            await self._watch.look(job)
        # What is on record decides, should another attempt have been first.
        kept = await self._keeper.recall(job, wish.part, wish.op)
        return piece if kept is None else SpokenPiece.model_validate(kept)
