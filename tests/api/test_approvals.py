"""What waits for a person, over HTTP: looked at, edited, decided; bound to its digest throughout."""

from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from fastapi import FastAPI

from activities.approvals import ApprovalActivities, AskApprovalInput
from activities.generation.assembly import KeptOutline
from core.database import Database
from core.ids import new_id
from domain.approvals import Subject, outline_sha256
from domain.artifacts import Artifact, ArtifactRole
from domain.generation import Corpus, CourseInput, CourseOutline, InlineSource, LessonOutline, ModuleOutline, Section
from domain.guarding import ContentPolicy, GuardAction
from domain.jobs import JobRef
from domain.model import Frozen
from repositories.artifacts import ArtifactRepository
from repositories.guarding import PolicyRepository
from repositories.steps import StepResultRepository
from tests.api.conftest import MakeFront
from tests.api.support import Front, pointers, problem_of
from tests.support.courses import make_provenance
from tests.support.job_rows import add_running_job

DIGEST: Final = "0" * 64
WANTED: Final = CourseInput(
    topic="Tides", modules=1, lessons_per_module=1, sources=(InlineSource(name="a.md", text="The moon pulls."),)
)
OUTLINE: Final = CourseOutline(
    title="Tides",
    description="Why the sea moves.",
    modules=(
        ModuleOutline(
            title="The moon",
            summary="What pulls.",
            lessons=(LessonOutline(title="Twice a day", objectives=("Tell why",), section_ids=("s1",)),),
        ),
    ),
)
CORPUS: Final = Corpus(sections=(Section(id="s1", source="a.md", path=(), paragraphs=("The moon pulls.",)),))


async def keep(app: FastAPI, job: JobRef, name: str, document: Frozen) -> UUID:
    """Store a document as the steps of a course do."""
    services = app.state.services
    body = document.model_dump_json().encode()
    artifact = Artifact(
        id=new_id(), tenant_id=job.tenant_id, job_id=job.job_id, name=name, media_type="application/json",
        bytes=len(body), sha256=await services.store.put(job.tenant_id, body), role=ArtifactRole.PARTIAL,
    )  # fmt: skip
    async with services.database.tenant(job.tenant_id) as connection:
        await ArtifactRepository(connection).add(artifact)
    return artifact.id


async def waiting_course(app: FastAPI, database: Database, front: Front) -> JobRef:
    """A course whose outline waits for a person."""
    job = await add_running_job(database, front.tenant_id, raw_input=WANTED.model_dump(mode="json"))
    corpus_id = await keep(app, job, "corpus.json", CORPUS)
    outline_id = await keep(app, job, "outline.json", KeptOutline(outline=OUTLINE, provenance=make_provenance()))
    async with database.tenant(job.tenant_id) as connection:
        await StepResultRepository(connection).add(job, "sources", "", {"artifact_id": str(corpus_id)})
    await ApprovalActivities(database, hour=timedelta(hours=1)).ask_approval(
        AskApprovalInput(
            job=job,
            subject=Subject.OUTLINE,
            round=1,
            timeout_hours=24,
            on_timeout="fail",
            artifact_id=outline_id,
            content_sha256=outline_sha256(OUTLINE),
        )
    )
    return job


@pytest.fixture
async def job(app: FastAPI, database: Database, front: Front) -> JobRef:
    return await waiting_course(app, database, front)


def titled(title: str) -> dict[str, Any]:
    """The outline under another title."""
    return OUTLINE.model_copy(update={"title": title}).model_dump(mode="json")


class TestOutline:
    async def test_is_shown_with_its_digest(self, front: Front, job: JobRef) -> None:
        answer = await front.http.get(f"/jobs/{job.job_id}/outline")
        document = answer.json()
        assert document["outline"] == OUTLINE.model_dump(mode="json")
        assert (document["state"], document["round"], document["edited"]) == ("waiting", 1, False)
        assert answer.headers["etag"] == f'"{document["content_sha256"]}"'
        shown = (await front.http.get(f"/jobs/{job.job_id}")).json()
        assert shown["waiting_on"]["kind"] == "approval"
        assert document["content_sha256"] in shown["waiting_on"]["detail"]
        assert shown["waiting_on"]["until"] is not None

    async def test_is_edited_and_approved(self, front: Front, job: JobRef) -> None:
        path = f"/jobs/{job.job_id}"
        etag = (await front.http.get(f"{path}/outline")).headers["etag"]
        edited = await front.http.put(f"{path}/outline", json=titled("By hand"), headers={"If-Match": etag})
        assert edited.status_code == 200, edited.text
        document = edited.json()
        assert (document["outline"]["title"], document["edited"]) == ("By hand", True)
        assert document["provenance"]["provider"] == "person"
        assert (await front.http.get(f"{path}/outline")).json() == document
        stale = {"content_sha256": etag.strip('"')}
        problem_of(await front.http.post(f"{path}/approve", json=stale), 409, "E.APPROVAL.STALE")
        problem_of(await front.http.post(f"{path}/reject", json=stale), 409, "E.APPROVAL.STALE")
        seen = {"content_sha256": document["content_sha256"], "comment": "good"}
        assert (await front.http.post(f"{path}/approve", json=seen)).status_code == 202
        problem_of(await front.http.post(f"{path}/approve", json=seen), 409, "E.JOB.STATE")
        answer = await front.http.put(
            f"{path}/outline", json=titled("Late"), headers={"If-Match": edited.headers["etag"]}
        )
        problem_of(answer, 409, "E.JOB.STATE")
        document = (await front.http.get(f"{path}/outline")).json()
        assert (document["state"], document["comment"]) == ("approved", "good")

    async def test_an_edit_names_what_was_seen(self, front: Front, job: JobRef) -> None:
        path = f"/jobs/{job.job_id}/outline"
        problem_of(await front.http.put(path, json=titled("x"), headers={"If-Match": DIGEST}), 409, "E.APPROVAL.STALE")
        assert pointers(await front.http.put(path, json=titled("x"))) == ["/header/If-Match"]
        assert pointers(await front.http.put(path, json=titled("x"), headers={"If-Match": "*"})) == ["/header/If-Match"]

    async def test_the_same_again_changes_nothing(self, front: Front, job: JobRef) -> None:
        path = f"/jobs/{job.job_id}/outline"
        before = await front.http.get(path)
        answer = await front.http.put(path, json=titled("Tides"), headers={"If-Match": before.headers["etag"]})
        assert answer.json() == before.json()

    async def test_faults_are_named(self, front: Front, job: JobRef) -> None:
        path = f"/jobs/{job.job_id}/outline"
        etag = (await front.http.get(path)).headers["etag"]
        outline = titled("x")
        outline["modules"][0]["lessons"][0]["section_ids"] = ["s9"]
        answer = await front.http.put(path, json=outline, headers={"If-Match": etag})
        assert pointers(answer) == ["/modules/0/lessons/0/section_ids"]
        answer = await front.http.put(path, json={**titled("x"), "modules": []}, headers={"If-Match": etag})
        assert pointers(answer) == ["/modules"]

    async def test_personal_data_is_masked_and_told(self, front: Front, job: JobRef) -> None:
        path = f"/jobs/{job.job_id}/outline"
        etag = (await front.http.get(path)).headers["etag"]
        edited = await front.http.put(path, json=titled("Ask anna@example.com"), headers={"If-Match": etag})
        assert edited.status_code == 200, edited.text
        document = edited.json()
        assert document["outline"]["title"] == "Ask [e-mail]"
        (finding,) = document["findings"]
        assert (finding["kind"], finding["pointer"], finding["action"]) == ("email", "/title", "mask")
        outline = CourseOutline.model_validate(document["outline"])
        assert document["content_sha256"] == outline_sha256(outline)
        again = {"If-Match": edited.headers["etag"]}
        assert (await front.http.put(path, json=titled("Ask Anna"), headers=again)).json()["findings"] == []

    async def test_what_the_policy_blocks_is_refused(self, front: Front, database: Database, job: JobRef) -> None:
        async with database.tenant(front.tenant_id) as connection:
            await PolicyRepository(connection).put(front.tenant_id, ContentPolicy(email=GuardAction.BLOCK))
        path = f"/jobs/{job.job_id}/outline"
        before = await front.http.get(path)
        headers = {"If-Match": before.headers["etag"]}
        answer = await front.http.put(path, json=titled("Ask anna@example.com"), headers=headers)
        problem_of(answer, 422, "E.REQUEST.INVALID")
        assert pointers(answer) == ["/title"]
        assert "anna" not in answer.text
        assert (await front.http.get(path)).json() == before.json()

    async def test_belongs_to_its_tenant(
        self, app: FastAPI, database: Database, front: Front, job: JobRef, make_front: MakeFront
    ) -> None:
        stranger = await make_front()
        path, etag = f"/jobs/{job.job_id}/outline", f'"{outline_sha256(OUTLINE)}"'
        problem_of(await stranger.http.get(path), 404)
        problem_of(await stranger.http.put(path, json=titled("x"), headers={"If-Match": etag}), 404)
        node = f"/courses/{job.job_id}/nodes/lesson-1.1"
        content = {
            "title": "t", "summary": "s", "key_points": ["k"], "terms": [],
            "blocks": [{"heading": "h", "paragraphs": ["p"], "bullets": []}],
        }  # fmt: skip
        problem_of(await stranger.http.put(node, json=content, headers={"If-Match": etag}), 404)
        problem_of(await front.http.put(node, json=content, headers={"If-Match": etag}), 404)
        reader = await make_front(of=front, scopes=["jobs:read"])
        problem_of(await reader.http.put(path, json=titled("x"), headers={"If-Match": etag}), 403)

    async def test_of_a_job_that_asks_nobody(self, front: Front) -> None:
        path = f"/jobs/{(await front.post())['id']}/outline"
        problem_of(await front.http.get(path), 404)
        problem_of(await front.http.put(path, json=titled("x"), headers={"If-Match": DIGEST}), 409, "E.JOB.STATE")
