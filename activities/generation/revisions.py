"""Making something anew: the wish for it, putting a single block or slide back into its place, and answers no good."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, NoReturn, TypeVar

from activities.generation.documents import DocumentStore
from activities.generation.writer import Wish, Written
from activities.steps import StepKeeper
from domain.artifacts import ArtifactRole
from domain.course_graph import number_of
from domain.errors import ContentError
from domain.generation import (
    ContentStatus,
    LessonBlock,
    LessonContent,
    LessonTask,
    QuizTask,
    RevisionTask,
    Slide,
    SlideDeck,
    SlidesTask,
)
from domain.guarding import Finding, Verdict
from domain.jobs import JobRef
from domain.model import Frozen
from domain.sections import Revision
from prompts import revision as prompt
from repositories.steps import StepResultRepository

AnswerT = TypeVar("AnswerT", bound=Frozen)


def revised(wish: Wish[AnswerT], revision: Revision, before: AnswerT | None, *, spoiled: int = 0) -> Wish[Any]:
    """The same wish anew, with what came of it before and what a person says.

    Where only a part is to change, the answer is that part (``LessonBlock``, ``Slide``); see ``put_back``.
    """
    assert isinstance(wish.task, LessonTask | SlidesTask | QuizTask)
    place = None if revision.part is None else number_of(revision.part)
    task = RevisionTask(
        of=wish.task,
        before=None if before is None else before.model_dump(mode="json"),
        comment=revision.comment,
        part=place,
    )
    messages = prompt.render(
        wish.messages,
        before=None if before is None else before.model_dump_json(),
        comment=revision.comment,
        part=place,
    )
    anew = replace(wish, task=task, prompt=prompt.PROMPT, messages=messages, spoiled=spoiled, fresh=True)
    if place is None:
        return anew
    answer = LessonBlock if isinstance(before, LessonContent) else Slide
    where = _place_in(before, place)

    def rule(part: Any) -> list[tuple[str, str]]:
        faults = wish.rule(_with_part(before, place, part))
        return [(pointer.removeprefix(where), message) for pointer, message in faults if _is_at(pointer, where)]

    return replace(anew, answer=answer, rule=rule)  # type: ignore[arg-type]


def put_back(
    written: Written[Any], revision: Revision, before: Frozen | None, *, findings: Sequence[Finding] = ()
) -> Written[Any]:
    """What was written, with everything around it where only a part of ``before`` was to change.

    ``findings`` are those of ``before``; of what stays they are kept.
    """
    part = written.content
    if part is None or revision.part is None:
        return written
    place = number_of(revision.part)
    where = _place_in(before, place)
    found = [finding.model_copy(update={"pointer": f"{where}{finding.pointer}"}) for finding in written.findings]
    return replace(written, content=_with_part(before, place, part), findings=_with_findings(findings, found, where))


def findings_with_block(findings: Sequence[Finding], others: Sequence[Finding], place: int) -> tuple[Finding, ...]:
    """The findings of a lesson whose block at this place (from zero) is that of another lesson with ``others``."""
    where = f"/blocks/{place}"
    return _with_findings(findings, [finding for finding in others if _is_at(finding.pointer, where)], where)


def _with_findings(findings: Sequence[Finding], found: Sequence[Finding], where: str) -> tuple[Finding, ...]:
    """What was found at this place instead of what was found there before."""
    return (*(finding for finding in findings if not _is_at(finding.pointer, where)), *found)


def _place_in(before: Frozen | None, place: int) -> str:
    return f"/{'blocks' if isinstance(before, LessonContent) else 'slides'}/{place}"


def _is_at(pointer: str, where: str) -> bool:
    return pointer == where or pointer.startswith(f"{where}/")


def _with_part(before: Frozen | None, place: int, part: Any) -> Frozen:
    if isinstance(before, LessonContent):
        blocks = (*before.blocks[:place], part, *before.blocks[place + 1 :])
        return before.model_copy(update={"blocks": blocks})
    assert isinstance(before, SlideDeck)
    slides = (*before.slides[:place], part, *before.slides[place + 1 :])
    return before.model_copy(update={"slides": slides})


_WHY_NOT: Final = {
    ContentStatus.DRAFT: (
        "E.GENERATION.INVALID",
        "what was written anew does not fit its schema, even repaired",
    ),
    ContentStatus.REFUSED: ("E.GENERATION.REFUSED", "the model refused to write it anew"),
    ContentStatus.FILTERED: ("E.GENERATION.FILTERED", "the provider's content filter stopped what was written anew"),
    ContentStatus.TRUNCATED: ("E.GENERATION.TRUNCATED", "what was written anew was cut off at the token limit"),
}
_BLOCKED: Final = ("E.GENERATION.BLOCKED", "the tenant's content policy stopped what was written anew")


class SpoiledAnswers:
    """Answers that were to stand in the place of something good, and are no good themselves.

    They change nothing in the course: each is kept as a partial result, and ends its attempt of the job.
    """

    def __init__(self, keeper: StepKeeper, documents: DocumentStore) -> None:
        self._keeper = keeper
        self._documents = documents

    async def count(self, job: JobRef, part: str) -> int:
        """How many answers for this part were no good, so that the next one is another call."""
        async with self._keeper.effect(job) as connection:
            return len(await StepResultRepository(connection).get_by_prefix(job, _prefix(part)))

    async def refuse(
        self, job: JobRef, part: str, body: Frozen, status: ContentStatus, findings: Iterable[Finding]
    ) -> NoReturn:
        """Keep what came back. Raises ContentError saying what is wrong with it, by ``findings`` if they block it."""
        artifact = await self._documents.store(job, f"{part}-draft.json", body, ArtifactRole.PARTIAL)
        async with self._keeper.effect(job) as connection:
            await self._documents.add(connection, artifact)
            spoiled = f"{_prefix(part)}{job.attempt}"
            await StepResultRepository(connection).add(job, spoiled, "", {"artifact_id": str(artifact.id)})
        code, detail = _BLOCKED if Verdict(findings=tuple(findings)).blocked else _WHY_NOT[status]
        raise ContentError(detail, code=code)


def _prefix(part: str) -> str:
    return f"spoiled-{part}-"
