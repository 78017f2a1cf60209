"""The one tree of errors, and with it the catalogue of machine-readable codes.

::

    LonghaulError
    ├── RequestError            what the caller sent cannot be done as it stands
    │   ├── InvalidInput, NotFound, ScopeMissing, ...
    ├── StateError              the thing exists, its state forbids the wish
    ├── DependencyError         something we lean on is away; trying again helps
    ├── ProviderError           an outside system answered, or failed to; carries its Outcome
    ├── BudgetExceeded, PriceUnknown
    └── ContentError            the work was done, its result is not usable

Gateways and repositories raise these; ``activities/errors.py`` turns them into Temporal failures and
``api/errors.py`` into problem documents. Nothing else translates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Final


class LonghaulError(Exception):
    """Root of everything Longhaul raises on purpose.

    ``code`` is stable and machine-readable; ``retryable`` says whether the same call may succeed later;
    ``retry_after`` is the earliest moment, from now, at which that makes sense.
    """

    code: str = "E.INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after

    @property
    def title(self) -> str:
        """The human-readable name of the code, the same for every occurrence (RFC 9457)."""
        return TITLES[self.code]


# --- what the caller sent ---------------------------------------------------------------------------


class RequestError(LonghaulError):
    """The request cannot be carried out as it was sent; sending it again unchanged will not help."""


@dataclass(frozen=True, slots=True)
class FieldFault:
    """What is wrong with one value, named by its JSON pointer (RFC 6901)."""

    pointer: str
    message: str


class InvalidInput(RequestError):
    """Values are not acceptable; ``faults`` names each of them."""

    code = "E.REQUEST.INVALID"

    def __init__(self, detail: str, *, faults: Sequence[FieldFault] = ()) -> None:
        super().__init__(detail)
        self.faults = tuple(faults)


class MalformedBody(RequestError):
    """The body is not what its media type promises."""

    code = "E.REQUEST.MALFORMED"


class BodyTooLarge(RequestError):
    """The body, or a part of it, is over the limit."""

    code = "E.REQUEST.TOO_LARGE"


class UnsupportedMediaType(RequestError):
    """The media type or content encoding of the body is not served here."""

    code = "E.REQUEST.MEDIA_TYPE"


class Unauthenticated(RequestError):
    """No key, or a key that is unknown, expired or revoked."""

    code = "E.AUTH.INVALID"


class ScopeMissing(RequestError):
    """The key is good, but lacks the scope this call needs."""

    code = "E.AUTH.SCOPE"


class RateLimited(RequestError):
    """Too many requests; ``retry_after`` says when the next one is welcome."""

    code = "E.RATE.LIMITED"
    retryable = True


class NotFound(RequestError):
    """There is no such thing, or it belongs to somebody else: the answer is the same."""

    code = "E.NOT_FOUND"


class RangeNotSatisfiable(RequestError):
    """The requested byte range lies outside the artifact."""

    code = "E.ARTIFACT.RANGE"


class IdempotencyMismatch(RequestError):
    """The idempotency key was used before with a different request."""

    code = "E.IDEMPOTENCY.MISMATCH"


class IdempotencyKeyInvalid(RequestError):
    """The idempotency key is empty, too long or not a structured-field string."""

    code = "E.IDEMPOTENCY.KEY"


class SourceEmpty(InvalidInput):
    """A source, or all of them together, holds no text to make anything from."""

    code = "E.SOURCE.EMPTY"


class SourceNotText(InvalidInput):
    """A source is not text: bytes that are neither UTF-8 nor marked UTF-16, or mostly control characters."""

    code = "E.SOURCE.NOT_TEXT"


class RecordsRejected(InvalidInput):
    """A record of the batch is not acceptable, and the batch was to be taken whole or not at all."""

    code = "E.SAVING.REJECTED"


class InboxFull(RequestError):
    """More records wait to be saved than the installation allows; ``retry_after`` says when to come again."""

    code = "E.SAVING.BACKLOG"
    retryable = True


# --- the state of things ----------------------------------------------------------------------------


class StateError(LonghaulError):
    """The state of the job forbids what was asked."""

    code = "E.JOB.STATE"


class ContentChanged(StateError):
    """What was looked at is not what is there now: somebody changed it in between."""

    code = "E.APPROVAL.STALE"


class NotFinished(StateError):
    """The result was asked for before the job had one."""

    code = "E.JOB.NOT_FINISHED"


class Superseded(LonghaulError):
    """An older attempt of a job tried to write after a newer one had begun; its write was dropped."""

    code = "E.JOB.SUPERSEDED"

    def __init__(self, detail: str = "the job is finished, or a newer attempt has taken over") -> None:
        super().__init__(detail)


class NotReopened(LonghaulError):
    """The workflow of a finished job was reset, and the reconciler has not opened the job again yet."""

    code = "E.JOB.NOT_REOPENED"
    retryable = True

    def __init__(self) -> None:
        super().__init__("the workflow of a finished job was reset; it goes on once the job is open again")
        self.retry_after = timedelta(seconds=2)


class WorkflowEnded(LonghaulError):
    """The workflow was ended from outside (terminated, timed out) or failed without saying why."""

    def __init__(self, detail: str, *, code: str) -> None:
        super().__init__(detail)
        self.code = code


# --- federated learning -----------------------------------------------------------------------------


class UpdateRefused(InvalidInput):
    """An update is not acceptable; ``reason`` is short, stable, and fit for a metric's label."""

    code = "E.FEDERATED.UPDATE"

    def __init__(self, detail: str, *, reason: str) -> None:
        super().__init__(detail, faults=[FieldFault(f"/update/{reason}", detail)])
        self.reason = reason


class RoundClosed(RequestError):
    """The round takes no more updates: it is full, its time is over, or its cycle has ended."""

    code = "E.FEDERATED.ROUND_CLOSED"


class UpdateConflict(StateError):
    """Another update was accepted under the same lease."""

    code = "E.FEDERATED.CONFLICT"


class HeadMoved(StateError):
    """The head of the model is no longer what the decision was made on, or cannot be what it is asked to be."""

    code = "E.FEDERATED.HEAD"


class ModelExists(StateError):
    """There is a model of that name."""

    code = "E.FEDERATED.EXISTS"


class QuorumMissed(LonghaulError):
    """No round of the cycle had enough updates to count."""

    code = "E.FEDERATED.QUORUM"


class CycleBusy(LonghaulError):
    """Another cycle is at work on the model; this one waits for its turn."""

    code = "E.FEDERATED.BUSY"
    retryable = True


# --- what we lean on --------------------------------------------------------------------------------


class DependencyError(LonghaulError):
    """A part of the platform is away; the caller may try again."""

    retryable = True


class DatabaseUnavailable(DependencyError):
    """PostgreSQL cannot be reached or refuses connections."""

    code = "E.DB.UNAVAILABLE"


class SchemaMismatch(LonghaulError):
    """The database schema is not the one this code was written for."""

    code = "E.DB.SCHEMA"


class TemporalUnavailable(DependencyError):
    """Temporal cannot be reached within the time-out."""

    code = "E.TEMPORAL.UNAVAILABLE"


class StoreUnavailable(DependencyError):
    """The object store cannot be reached or refuses."""

    code = "E.STORE.UNAVAILABLE"


class SavingHalted(LonghaulError):
    """PostgreSQL refuses to save for a reason that neither time nor another record will change."""

    code = "E.SAVING.HALTED"


class NoRuntime(DependencyError):
    """The family of the model needs libraries that are not installed in this process."""

    code = "E.FEDERATED.NO_RUNTIME"


class PromptDrift(LonghaulError):
    """A prompt's text differs from what is recorded under the same version."""

    code = "E.PROMPT.DRIFT"


# --- outside systems --------------------------------------------------------------------------------


class Outcome(StrEnum):
    """What is known about an outside effect after the call came back, or did not."""

    DONE = "done"
    REJECTED = "rejected"  # the other side said no; nothing happened
    NOT_SENT = "not_sent"  # the request never reached the other side
    UNKNOWN = "unknown"  # it may have happened; look before trying again


class ProviderError(LonghaulError):
    """An outside system failed. ``outcome`` says whether the effect may have happened all the same.

    ``code`` has the form ``E.<PROVIDER>.<REASON>``. Only NOT_SENT, and an explicit "not now" from the other
    side, may be tried again blindly; UNKNOWN has to be reconciled first. ``ended`` says that the other side has spoken
    itself, so that it is not at work on the effect any more.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str,
        outcome: Outcome,
        retryable: bool,
        retry_after: timedelta | None = None,
        ended: bool = False,
    ) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.code = code
        self.outcome = outcome
        self.may_retry = retryable
        self.ended = ended


class SpeechUnavailable(LonghaulError):
    """This machine cannot speak the text; a lesson does without a recording."""

    code = "E.SPEECH.UNAVAILABLE"


class VideoUnavailable(LonghaulError):
    """This machine cannot make a video: a program or a font is missing; a lesson does without."""

    code = "E.VIDEO.UNAVAILABLE"


# --- money ------------------------------------------------------------------------------------------


class BudgetExceeded(LonghaulError):
    """The next call could take the job over its budget; it was not made."""

    code = "E.BUDGET.EXCEEDED"


class PriceUnknown(LonghaulError):
    """The model has no price on file, so its cost cannot be bounded; the call was refused."""

    code = "E.BUDGET.PRICE_UNKNOWN"


# --- content ----------------------------------------------------------------------------------------


class ContentError(LonghaulError):
    """The provider answered, but what it answered cannot be used."""

    def __init__(self, detail: str, *, code: str) -> None:
        super().__init__(detail)
        self.code = code


class EvaluationFailed(LonghaulError):
    """An evaluation was carried out, and what it found is not good; the detail names the cases and metrics."""

    def __init__(self, detail: str, *, code: str) -> None:
        super().__init__(detail)
        self.code = code


TITLES: Final[dict[str, str]] = {
    "E.INTERNAL": "Internal error",
    "E.NOT_FOUND": "Not found",
    "E.NOT_READY": "A part of the platform is not ready",
    "E.REQUEST.INVALID": "The request is not valid",
    "E.REQUEST.MALFORMED": "The body cannot be read",
    "E.REQUEST.TOO_LARGE": "The request is too large",
    "E.REQUEST.MEDIA_TYPE": "Unsupported media type",
    "E.REQUEST.METHOD": "Method not allowed",
    "E.REQUEST.NOT_ACCEPTABLE": "No acceptable representation",
    "E.REQUEST.TIMEOUT": "The request took too long to arrive",
    "E.AUTH.INVALID": "Authentication required",
    "E.AUTH.SCOPE": "The key lacks a scope",
    "E.RATE.LIMITED": "Too many requests",
    "E.JOB.STATE": "The state of the job forbids this",
    "E.JOB.NOT_FINISHED": "The job has no result yet",
    "E.JOB.NOT_REOPENED": "The job is about to be opened again",
    "E.JOB.SUPERSEDED": "A newer attempt has taken over",
    "E.JOB.TERMINATED": "The workflow was terminated by an operator",
    "E.JOB.TIMED_OUT": "The workflow ran out of its time",
    "E.JOB.CRASHED": "The workflow failed unexpectedly",
    "E.JOB.VANISHED": "The workflow is gone from Temporal",
    "E.JOB.ABANDONED": "The job was canceled before it finished",
    "E.STEP.TIMEOUT": "A step ran out of its time",
    "E.APPROVAL.STALE": "The content is not the one that was seen",
    "E.IDEMPOTENCY.MISMATCH": "The idempotency key was used with another request",
    "E.IDEMPOTENCY.KEY": "The idempotency key is not valid",
    "E.ARTIFACT.RANGE": "The range cannot be satisfied",
    "E.SOURCE.EMPTY": "A source has no text",
    "E.SOURCE.NOT_TEXT": "A source is not text",
    "E.BUDGET.EXCEEDED": "The budget does not cover the next call",
    "E.BUDGET.PRICE_UNKNOWN": "The model has no known price",
    "E.GENERATION.REFUSED": "The model refused",
    "E.GENERATION.FILTERED": "The provider's content filter stopped the answer",
    "E.GENERATION.BLOCKED": "The tenant's content policy stopped the answer",
    "E.GENERATION.TRUNCATED": "The answer was cut off at the token limit",
    "E.GENERATION.NOT_APPROVED": "A person did not agree",
    "E.GENERATION.APPROVAL_TIMEOUT": "Nobody agreed in time",
    "E.GENERATION.INVALID": "The answer does not fit its schema",
    "E.GENERATION.NODE_MISSING": "The part of the course is not there",
    "E.GENERATION.NOT_MADE": "The part could not be made",
    "E.GENERATION.OVERTAKEN": "The course kept changing meanwhile",
    "E.OPENAI.TIMEOUT": "The model provider did not answer in time",
    "E.OPENAI.CONNECTION": "The model provider cannot be reached",
    "E.OPENAI.RATE_LIMITED": "The model provider asks to slow down",
    "E.OPENAI.QUOTA": "The quota at the model provider is used up",
    "E.OPENAI.AUTH": "The model provider refuses our credentials",
    "E.OPENAI.REJECTED": "The model provider refuses the request",
    "E.OPENAI.UNAVAILABLE": "The model provider has a fault",
    "E.OPENAI.NO_MODERATION": "The model provider has no moderation",
    "E.OPENAI.PROTOCOL": "The model provider's answer is not understood",
    "E.OPENAI.NOT_CONFIGURED": "No model provider is configured",
    "E.EVALUATION.REGRESSED": "The evaluation found courses worse than before",
    "E.EVALUATION.BELOW_FLOOR": "The evaluation found courses that are not good enough",
    "E.SPEECH.UNAVAILABLE": "This machine cannot speak",
    "E.SPEECH.FAILED": "The speech program failed",
    "E.ELEVENLABS.TIMEOUT": "The speech provider did not answer in time",
    "E.ELEVENLABS.CONNECTION": "The speech provider cannot be reached",
    "E.ELEVENLABS.CONCURRENCY": "The speech provider is busy with our other texts",
    "E.ELEVENLABS.RATE_LIMITED": "The speech provider asks to slow down",
    "E.ELEVENLABS.QUOTA": "The quota at the speech provider is used up",
    "E.ELEVENLABS.AUTH": "The speech provider refuses our credentials",
    "E.ELEVENLABS.REJECTED": "The speech provider refuses the request",
    "E.ELEVENLABS.UNAVAILABLE": "The speech provider has a fault",
    "E.ELEVENLABS.PROTOCOL": "The speech provider's answer is not understood",
    "E.ELEVENLABS.IN_DOUBT": "It is not certain whether a text was spoken and paid for",
    "E.ELEVENLABS.NOT_CONFIGURED": "No speech provider is configured",
    "E.VIDEO.UNAVAILABLE": "This machine cannot make a video",
    "E.VIDEO.FAILED": "The video program failed",
    "E.VIDEO.NO_LESSON": "There is no finished lesson to film",
    "E.VIDEO.GIVEN_UP": "The video was given up by a person",
    "E.HEYGEN.TIMEOUT": "The video provider did not answer in time",
    "E.HEYGEN.CONNECTION": "The video provider cannot be reached",
    "E.HEYGEN.RATE_LIMITED": "The video provider has no place for another video now",
    "E.HEYGEN.IN_PROGRESS": "The video provider is still at an earlier try of the same order",
    "E.HEYGEN.QUOTA": "The credit at the video provider is used up",
    "E.HEYGEN.AUTH": "The video provider refuses our credentials",
    "E.HEYGEN.REJECTED": "The video provider refuses the order",
    "E.HEYGEN.UNAVAILABLE": "The video provider has a fault",
    "E.HEYGEN.PROTOCOL": "The video provider's answer is not understood",
    "E.HEYGEN.EXPIRED": "The address of a video is too old",
    "E.HEYGEN.ADDRESS": "The address of a video is not allowed",
    "E.HEYGEN.RENDER_FAILED": "The video provider could not render the video",
    "E.HEYGEN.UNUSABLE": "The finished video cannot be used",
    "E.HEYGEN.STUCK": "The video takes longer than it should",
    "E.HEYGEN.IN_DOUBT": "It is not certain whether the video was ordered",
    "E.HEYGEN.NOT_CONFIGURED": "No video provider is configured",
    "E.FEDERATED.UPDATE": "The update is not acceptable",
    "E.FEDERATED.ROUND_CLOSED": "The round takes no more updates",
    "E.FEDERATED.CONFLICT": "Another update was accepted under this lease",
    "E.FEDERATED.HEAD": "The head of the model does not allow this",
    "E.FEDERATED.EXISTS": "There is a model of that name",
    "E.FEDERATED.QUORUM": "No round had enough updates",
    "E.FEDERATED.BUSY": "Another cycle is at work on the model",
    "E.FEDERATED.NO_RUNTIME": "The libraries of this model family are not installed here",
    "E.TELEGRAM.AUTH": "Telegram refuses the bot's token",
    "E.TELEGRAM.CONNECTION": "Telegram cannot be reached",
    "E.TELEGRAM.MIGRATED": "The chat goes on under another id",
    "E.TELEGRAM.PARTIAL": "A part of the album was published",
    "E.TELEGRAM.PROTOCOL": "Telegram's answer is not understood",
    "E.TELEGRAM.RATE_LIMITED": "Telegram asks to slow down",
    "E.TELEGRAM.REJECTED": "Telegram refuses the request",
    "E.TELEGRAM.RIGHTS": "The bot lacks a right in the channel",
    "E.TELEGRAM.TIMEOUT": "Telegram did not say what became of a call",
    "E.TELEGRAM.UNAVAILABLE": "Telegram has a fault",
    "E.CHANNEL.CREDENTIAL": "The channel's credential cannot be used",
    "E.CHANNEL.RIGHTS": "The channel cannot be published to",
    "E.CHANNEL.UNSERVED": "No worker knows this kind of channel",
    "E.ORDER.CANCELED": "The order was canceled",
    "E.ORDER.CHANNEL_BUSY": "Another post of the channel is not settled yet",
    "E.ORDER.IN_DOUBT": "It is not certain whether the post is out",
    "E.ORDER.LIMIT": "The post waits for its turn",
    "E.ORDER.LINKS": "A link of the post leads nowhere",
    "E.ORDER.MISSED": "The post was not published in time",
    "E.ORDER.NOT_APPROVED": "The channel's owner did not agree",
    "E.ORDER.NOT_REMOVED": "The post could not be taken away",
    "E.ORDER.REJECTED": "The post was refused",
    "E.ORDER.STALE": "The worker stood still before it sent",
    "E.ORDER.STATE": "The state of the order forbids sending",
    "E.DB.UNAVAILABLE": "The database is not available",
    "E.DB.CONSTRAINT": "The database refused the change",
    "E.DB.SCHEMA": "The database schema does not fit this version",
    "E.TEMPORAL.UNAVAILABLE": "Temporal is not available",
    "E.STORE.UNAVAILABLE": "The object store is not available",
    "E.PROMPT.DRIFT": "A prompt changed without a new version",
    "E.SAVING.REJECTED": "A record is not acceptable",
    "E.SAVING.BACKLOG": "Too many records wait to be saved",
    "E.SAVING.HALTED": "Saving has stopped",
    "E.RECORD.MALFORMED": "The record cannot be read",
    "E.RECORD.INVALID": "The record does not fit its collection",
    "E.RECORD.TOO_LARGE": "The record is too large",
    "E.RECORD.TOO_DEEP": "The record is nested too deep",
    "E.RECORD.TEXT": "The record holds text that cannot be stored",
    "E.RECORD.REFUSED": "The database refuses the record",
    "E.RECORD.CRASHED": "The record brought workers down",
    "E.WEBHOOK.ADDRESS": "The callback address is not allowed",
}
"""Every code there is, with its title. ``docs/errors.md`` explains each to the reader of a problem document."""
