"""The content policy at work: what a model wrote is looked at before anything of it is kept or shown.

Personal data is dealt with first, right where an answer arrives and before even the memory of the job has it. A
provider's moderation comes second, before content is cached, stored or told of. No finding holds what was found.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from activities.steps import StepKeeper
from core.database import Database
from domain.generation import Completion, CompletionRequest, Finish, LanguageModel
from domain.guarding import (
    ContentPolicy,
    Finding,
    FindingKind,
    GuardAction,
    Judgement,
    Moderator,
    Spot,
    TextDetector,
    Verdict,
    count_findings,
    guard_texts,
    is_shallow,
    judged_spots,
    names_of,
    readable,
    sum_counts,
    texts_of,
    with_texts,
)
from domain.jobs import JobRef
from domain.structured import parse_document, unfenced
from repositories.guarding import PolicyReader
from repositories.jobs import JobRepository
from repositories.steps import StepResultRepository

_INSIDE: Final = frozenset({"offline"})
"""Providers that run in this process: what they are given goes nowhere."""
_LARGE_CHARS: Final = 20_000
"""Texts longer than that are searched in a thread."""
_MOST_TOLD: Final = 50
"""So many findings are told one by one in an event; the counts are of all."""
_PIECE_CHARS: Final = 8_000
"""Longer texts are moderated in pieces."""
_PASSAGE_CHARS: Final = 2_000
"""Shorter ones are moderated together with their neighbours, up to this length: OpenAI finds chunks under 2,000
characters most accurate, and hundreds of titles one by one took longer than the course's structure itself."""
_FOUND: Final = "guard/"
_SENT: Final = "guard-sent/"

_GOOD: Final = Judgement(categories={})

Texts = Sequence[tuple[str, str]]
Found = list[tuple[str, str, Sequence[Spot]]]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A text of a document, or a piece of a long one."""

    pointer: str
    start: int
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of content: the part of the job that it becomes, what it was made from, by whom, in which language."""

    job: JobRef
    name: str
    digest: str
    provider: str
    language: str


class ContentGuard:
    """Applies tenants' content policies. Whoever has none gets the defaults of ``ContentPolicy``."""

    def __init__(
        self,
        database: Database,
        keeper: StepKeeper,
        detector: TextDetector,
        moderators: Iterable[Moderator] = (),
    ) -> None:
        self._database = database
        self._keeper = keeper
        self._detector = detector
        self._policies = PolicyReader(database)
        self._moderators = {moderator.provider: moderator for moderator in moderators}

    # --- before a call ------------------------------------------------------------------------------

    async def seal(self, job: JobRef, step: str, model: LanguageModel, request: CompletionRequest) -> CompletionRequest:
        """The request as it may leave the installation: without the personal data that answers may not hold either."""
        if model.name in _INSIDE:
            return request
        language = request.task.language
        found = await self._search([(str(i), one.content) for i, one in enumerate(request.messages)], language)
        if not found:
            return request
        policy = await self._policies.get(job.tenant_id)
        if policy.sources == "send":
            return request
        guarded = guard_texts(found, _for_sending(policy), language=language)
        if not guarded.findings:
            return request
        part = Part(job=job, name=step, digest=request.op, provider=model.name, language=language)
        await self._remember(part, _SENT, "sources.guarded", guarded.findings)
        messages = tuple(
            one.model_copy(update={"content": guarded.changed.get(str(i), one.content)})
            for i, one in enumerate(request.messages)
        )
        return request.model_copy(update={"messages": messages})

    # --- when an answer arrives ---------------------------------------------------------------------

    async def screen(self, job: JobRef, completion: Completion, *, language: str) -> Completion:
        """The answer with personal data dealt with. Nothing of a blocked answer is left."""
        member = "refusal" if completion.refusal else "text"
        said = completion.refusal or completion.text
        text, findings = await self._screen_text(job, said, language)
        if text == said and not findings:
            return completion
        verdict = Verdict(findings=findings)
        if verdict.blocked:
            gone = {"text": "", "refusal": None, "finish": Finish.CONTENT_FILTER, "findings": findings}
            return completion.model_copy(update=gone)
        return completion.model_copy(update={member: text, "findings": findings})

    async def _screen_text(self, job: JobRef, raw: str, language: str) -> tuple[str, tuple[Finding, ...]]:
        document = _document_in(raw)
        texts = [("", readable(raw))] if document is None else list(texts_of(document))
        found = await self._search(texts, language)
        if document is not None and await self._search([("", name) for name in set(names_of(document))], language):
            # A name cannot be replaced for sure without two becoming one: the answer is dealt with as mere text.
            document, found = None, await self._search([("", readable(raw))], language)
        if not found:
            return raw, ()
        if document is None:
            found = [(pointer, raw, spots) for pointer, _, spots in found]
        guarded = guard_texts(found, await self._policies.get(job.tenant_id), language=language)
        if not guarded.changed:
            return raw, guarded.findings
        if document is None:
            return guarded.changed[""], guarded.findings
        return _dumped(with_texts(document, guarded.changed)), guarded.findings

    # --- before content is kept ---------------------------------------------------------------------

    async def recheck(self, part: Part, content: dict[str, Any]) -> tuple[dict[str, Any], tuple[Finding, ...]]:
        """Content from the cache under the policy of today, which may be stricter than the one it was made under."""
        found = await self._search(list(texts_of(content)), part.language)
        if not found:
            return content, ()
        guarded = guard_texts(found, await self._policies.get(part.job.tenant_id), language=part.language)
        return with_texts(content, guarded.changed), guarded.findings

    async def still_masks(self, job: JobRef, findings: Iterable[Finding]) -> bool:
        """Whether what was masked would be masked today as well; otherwise the content has to be made anew."""
        masked = Verdict(findings=tuple(findings)).masked
        if not masked:
            return True
        policy = await self._policies.get(job.tenant_id)
        return all(policy.action_for(kind) is GuardAction.MASK for kind in masked)

    async def review(self, part: Part, document: Any, findings: tuple[Finding, ...]) -> Verdict:
        """The verdict on content that went through ``screen`` or ``recheck``, with the provider's moderation added.

        Whatever was found is written down with the job. Raises ProviderError where the moderation gives no answer:
        then the content is neither good nor bad, and is looked at again.
        """
        if not Verdict(findings=findings).blocked:
            findings = (*findings, *await self._moderate(part, list(texts_of(document))))
        if findings:
            await self._remember(part, _FOUND, "content.guarded", findings)
        return Verdict(findings=findings)

    async def _moderate(self, part: Part, texts: Texts) -> tuple[Finding, ...]:
        moderator = self._moderators.get(part.provider)
        passages = _passages_of(texts)
        if moderator is None or not passages:
            return ()
        found = await _objections(moderator, passages)
        if not found:
            return ()
        return _told(found, await self._policies.get(part.job.tenant_id))

    # --- what is told -------------------------------------------------------------------------------

    async def sum_up(self, job: JobRef, provider: str) -> dict[str, Any]:
        """What was looked for in the whole job, and how much of it was found; for the job's result."""
        # Only read, and without the fence: a caller may be inside a transaction that holds the job already.
        async with self._database.tenant(job.tenant_id) as connection:
            results = StepResultRepository(connection)
            found = (await results.get_by_prefix(job, _FOUND)).values()
            sent = (await results.get_by_prefix(job, _SENT)).values()
        moderator = self._moderators.get(provider)
        return {
            "personal_data": "local detectors",
            "moderation": None if moderator is None else f"{moderator.provider} {moderator.model}",
            "findings": sum_counts(one["counts"] for one in found),
            "masked_in_sources": sum_counts(one["counts"] for one in sent),
        }

    async def _remember(self, part: Part, memory: str, event: str, findings: Sequence[Finding]) -> None:
        """Keep the counts and tell of the findings, once for the same part made from the same input."""
        counts = count_findings(findings)
        if not counts:
            return
        told = [finding.model_dump(mode="json") for finding in findings[:_MOST_TOLD]]
        data = {"part": part.name, "counts": counts, "findings": told, "more": len(findings) - len(told)}
        job = part.job
        async with self._keeper.effect(job) as connection:
            if await StepResultRepository(connection).add(job, f"{memory}{part.name}", part.digest, {"counts": counts}):
                await JobRepository(connection).record(job_id=job.job_id, attempt=job.attempt, event=event, data=data)

    # --- searching ----------------------------------------------------------------------------------

    async def _search(self, texts: Texts, language: str) -> Found:
        """Texts with something in them, each with what is in it."""
        if sum(len(text) for _, text in texts) > _LARGE_CHARS:
            return await asyncio.to_thread(self._find, texts, language)
        return self._find(texts, language)

    def _find(self, texts: Texts, language: str) -> Found:
        found = ((pointer, text, self._detector.find(text, language=language)) for pointer, text in texts)
        return [one for one in found if one[2]]


def _passages_of(texts: Texts) -> list[list[_Piece]]:
    """The texts in order, as passages of one long piece or of several short ones."""
    passages: list[list[_Piece]] = []
    length = 0
    for pointer, text in texts:
        for start in range(0, 0 if text.isspace() else len(text), _PIECE_CHARS):
            piece = _Piece(pointer, start, text[start : start + _PIECE_CHARS])
            if not passages or length + len(piece.text) > _PASSAGE_CHARS:
                passages.append([])
                length = 0
            passages[-1].append(piece)
            length += len(piece.text) + 1  # the line break behind it
    return passages


async def _objections(moderator: Moderator, passages: Sequence[Sequence[_Piece]]) -> Found:
    """What a moderation objects to. Where it does to a passage, its pieces are looked at one by one as well."""
    judged = await moderator.moderate(texts=["\n".join(piece.text for piece in passage) for passage in passages])
    bad = [(passage, one) for passage, one in zip(passages, judged, strict=True) if one.categories]
    alone = [piece for passage, _ in bad if len(passage) > 1 for piece in passage]
    of_pieces = {}
    if alone:
        of_pieces = dict(zip(alone, await moderator.moderate(texts=[one.text for one in alone]), strict=True))
    found: Found = []
    for passage, judgement in bad:
        named: set[FindingKind] = set()
        for piece in passage:
            spots = list(
                judged_spots(of_pieces.get(piece, _GOOD), length=len(piece.text), moderator=moderator.provider)
            )
            named.update(spot.kind for spot in spots)
            found.append(_found_in(piece, spots))
        # What none of them is by itself they say together.
        for piece in passage:
            spots = list(judged_spots(judgement, length=len(piece.text), moderator=moderator.provider))
            found.append(_found_in(piece, [spot for spot in spots if spot.kind not in named]))
    return [one for one in found if one[2]]


def _found_in(piece: _Piece, spots: Iterable[Spot]) -> tuple[str, str, list[Spot]]:
    moved = [replace(spot, start=piece.start + spot.start, end=piece.start + spot.end) for spot in spots]
    return piece.pointer, piece.text, moved


def _for_sending(policy: ContentPolicy) -> ContentPolicy:
    """What may not be in an answer is masked in what is sent; everything else is sent as it is."""
    strict = {GuardAction.BLOCK, GuardAction.MASK}
    personal = (FindingKind.EMAIL, FindingKind.PHONE, FindingKind.CARD, FindingKind.IBAN, FindingKind.NATIONAL_ID)
    actions = {
        kind.value: GuardAction.MASK if policy.action_for(kind) in strict else GuardAction.ALLOW for kind in personal
    }
    return policy.model_copy(update=actions)


def _document_in(raw: str) -> Any:
    """The JSON document that an answer is, or None where it is none that we would read."""
    try:
        document = parse_document(unfenced(raw))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict | list) and is_shallow(document) else None


def _dumped(document: Any) -> str:
    """The document as JSON that a person can read, or with escapes where it holds what no encoding can carry."""
    text = json.dumps(document, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(document)
    return text


def _told(found: Found, policy: ContentPolicy) -> tuple[Finding, ...]:
    """Findings of the moderation: they cover whole passages, and nothing in the text is changed."""
    return tuple(
        Finding(
            kind=spot.kind, pointer=pointer, start=spot.start, end=spot.end, confidence=spot.confidence,
            detector=spot.detector, action=policy.action_for(spot.kind),
        )
        for pointer, _, spots in found
        for spot in spots
        if policy.action_for(spot.kind) is not GuardAction.ALLOW
    )  # fmt: skip
