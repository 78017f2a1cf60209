"""Courses over HTTP: looking, comparing, mixing, rolling back."""

from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI

from core.database import Database
from domain.generation import Lesson
from domain.guarding import Finding, FindingKind, GuardAction
from repositories.artifacts import ArtifactRepository
from repositories.courses import CourseRepository
from tests.api.support import Front, pointers, problem_of
from tests.support.course_trees import CourseTree, add_course


@pytest.fixture
async def course(app: FastAPI, database: Database, front: Front) -> CourseTree:
    """Three versions: the first, one whose second block is rewritten, and one with other slides and order."""
    made = await add_course(database, app.state.services.store, front.tenant_id)
    await made.write_lesson(1, "Moon: The moon pulls the sea.", "Sun: The sun pulls as well, a little.")
    await made.write_lesson(2, "Bay: Bays can be high.", "River: Rivers carry the tide <script>inland</script>.")
    await made.write_slides(1, "Moon", "Sun", "Both")
    assert await made.freeze() == 1
    await made.write_lesson(1, "Moon: The moon pulls the sea.", "Sun: The sun pulls too, but only a little.")
    assert await made.freeze() == 2
    await made.write_slides(1, "Moon", "Sun", "Spring tide")
    await made.write_lesson(2, "River: Rivers carry the tide <script>inland</script>.", "Bay: Bays can be high.")
    assert await made.freeze() == 3
    return made


def tree(document: dict[str, Any]) -> dict[str, str]:
    """The checksums of a document's nodes."""
    return {node["node"]: node["content_sha256"] for node in document["tree"]}


async def version(front: Front, course: CourseTree, number: int) -> dict[str, Any]:
    """A version as it is shown."""
    answer = await front.http.get(f"/courses/{course.id}/versions/{number}")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def lesson_of(app: FastAPI, course: CourseTree, key: str) -> Lesson:
    """The document behind a lesson of the working tree."""
    async with course.database.tenant(course.job.tenant_id) as connection:
        node = (await CourseRepository(connection).get_standing(course.id, [key]))[key]
        assert node.artifact_id is not None
        artifact = await ArtifactRepository(connection).get_one(node.artifact_id)
    return Lesson.model_validate_json(await app.state.services.store.get(artifact.store_key))


def finding(pointer: str) -> Finding:
    """An address in some string."""
    return Finding(
        kind=FindingKind.EMAIL, pointer=pointer, start=0, end=5, confidence=1.0, detector="test",
        action=GuardAction.FLAG,
    )  # fmt: skip


class TestLooking:
    async def test_a_course_with_its_tree(self, front: Front, course: CourseTree) -> None:
        (listed,) = (await front.http.get("/courses")).json()["items"]
        shown = (await front.http.get(f"/courses/{course.id}")).json()
        assert listed.items() <= shown.items()
        assert (shown["status"], shown["latest_version"], shown["title"]) == ("running", 3, "Tides <b>")
        assert list(tree(shown)) == [
            "outline", "module-1", "lesson-1.1", "lesson-1.1/block-1", "lesson-1.1/block-2", "lesson-1.1/slides",
            "lesson-1.1/slide-1", "lesson-1.1/slide-2", "lesson-1.1/slide-3", "lesson-1.2", "lesson-1.2/block-1",
            "lesson-1.2/block-2",
        ]  # fmt: skip

    async def test_pages(self, app: FastAPI, database: Database, front: Front) -> None:
        made = [str((await add_course(database, app.state.services.store, front.tenant_id)).id) for _ in range(3)]
        first = (await front.http.get("/courses", params={"limit": 2})).json()
        rest = (await front.http.get("/courses", params={"cursor": first["next_cursor"]})).json()
        assert [item["id"] for item in (*first["items"], *rest["items"])] == made[::-1]
        assert rest["next_cursor"] is None

    async def test_versions_newest_first_in_pages(self, front: Front, course: CourseTree) -> None:
        first = (await front.http.get(f"/courses/{course.id}/versions", params={"limit": 2})).json()
        rest = (await front.http.get(f"/courses/{course.id}/versions", params={"before": first["next_before"]})).json()
        assert [item["version"] for item in (*first["items"], *rest["items"])] == [3, 2, 1]
        assert rest["next_before"] is None

    async def test_of_another_tenant_are_not_found(self, other: Front, course: CourseTree) -> None:
        assert (await other.http.get("/courses")).json()["items"] == []
        where = f"/courses/{course.id}"
        for path in ("", "/versions", "/versions/1", "/diff?from=1&to=2", "/diff?from=1&to=2&format=html"):
            problem_of(await other.http.get(where + path), 404)
        problem_of(await other.http.post(f"{where}/rollback", json={"version": 1}), 404)
        wish = {"base": 1, "take": [{"node": "lesson-1.1", "from": 2}]}
        problem_of(await other.http.post(f"{where}/mix", json=wish), 404)

    async def test_what_is_not_there_is_not_found(self, front: Front, course: CourseTree) -> None:
        problem_of(await front.http.get(f"/courses/{uuid4()}"), 404)
        problem_of(await front.http.get(f"/courses/{course.id}/versions/4"), 404)
        problem_of(await front.http.get(f"/courses/{course.id}/diff", params={"from": 1, "to": 4}), 404)


class TestDiff:
    async def test_says_what_moved_and_what_changed_word_by_word(self, front: Front, course: CourseTree) -> None:
        diff = (await front.http.get(f"/courses/{course.id}/diff", params={"from": 1, "to": 2})).json()
        (change,) = diff["differences"]
        assert (change["change"], change["before"], change["after"]) == (
            "changed", "lesson-1.1/block-2", "lesson-1.1/block-2",
        )  # fmt: skip
        ops = {op: "".join(run["text"] for run in change["words"] if run["op"] in {"equal", op}) for op in
               ("delete", "insert")}  # fmt: skip
        assert ops == {
            "delete": "The sun pulls as well, a little.", "insert": "The sun pulls too, but only a little."
        }  # fmt: skip
        assert diff["counts"] == {"added": 0, "removed": 0, "moved": 0, "changed": 1}

    async def test_of_everything_at_once(self, front: Front, course: CourseTree) -> None:
        diff = (await front.http.get(f"/courses/{course.id}/diff", params={"from": 2, "to": 3})).json()
        found = [(one["change"], one["before"], one["after"]) for one in diff["differences"]]
        assert ("removed", "lesson-1.1/slide-3", None) in found or (
            "changed", "lesson-1.1/slide-3", "lesson-1.1/slide-3",
        ) in found  # fmt: skip
        assert sum(change == "moved" for change, _, _ in found) == 1

    async def test_of_a_version_and_itself_is_empty(self, front: Front, course: CourseTree) -> None:
        diff = (await front.http.get(f"/courses/{course.id}/diff", params={"from": 3, "to": 3})).json()
        assert diff["differences"] == []
        assert diff["unchanged"] > 0

    @pytest.mark.parametrize("by_header", [True, False])
    async def test_as_a_page_that_escapes_everything(self, front: Front, course: CourseTree, by_header: bool) -> None:
        params: dict[str, Any] = {"from": 1, "to": 3} | ({} if by_header else {"format": "html"})
        headers = {"accept": "text/html"} if by_header else {}
        answer = await front.http.get(f"/courses/{course.id}/diff", params=params, headers=headers)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        page = answer.text
        assert "Tides &lt;b&gt;: version 1 and version 3" in page
        assert "<script" not in page
        assert "<ins>" in page
        assert "<del>" in page


class TestRollback:
    async def test_makes_a_new_version_that_is_as_the_old_one(self, front: Front, course: CourseTree) -> None:
        answer = await front.http.post(f"/courses/{course.id}/rollback", json={"version": 1})
        assert answer.status_code == 201, answer.text
        made = answer.json()
        assert (made["version"], made["reason"]) == (4, "rollback")
        assert answer.headers["location"] == made["url"]
        assert tree(made) == tree(await version(front, course, 1))
        assert made["content_sha256"] == (await version(front, course, 1))["content_sha256"]
        assert tree((await front.http.get(f"/courses/{course.id}")).json()) == tree(made)

    async def test_said_twice_changes_nothing_more(self, front: Front, course: CourseTree) -> None:
        answers = [await front.http.post(f"/courses/{course.id}/rollback", json={"version": 1}) for _ in range(2)]
        assert [(answer.status_code, answer.json()["version"]) for answer in answers] == [(201, 4), (200, 4)]

    async def test_to_nowhere_names_the_version(self, front: Front, course: CourseTree) -> None:
        assert pointers(await front.http.post(f"/courses/{course.id}/rollback", json={"version": 9})) == ["/version"]


class TestMix:
    async def test_a_single_slide(self, front: Front, course: CourseTree) -> None:
        """Slide 3 from version 1, everything else from version 3."""
        wish = {"base": 3, "take": [{"node": "lesson-1.1/slide-3", "from": 1}]}
        answer = await front.http.post(f"/courses/{course.id}/mix", json=wish)
        assert answer.status_code == 201, answer.text
        mixed, first, third = (tree(one) for one in (answer.json(), *[await version(front, course, n) for n in (1, 3)]))
        assert mixed["lesson-1.1/slide-3"] == first["lesson-1.1/slide-3"] != third["lesson-1.1/slide-3"]
        assert [key for key in mixed if mixed[key] != third[key]] == ["lesson-1.1/slides", "lesson-1.1/slide-3"]
        again = await front.http.post(f"/courses/{course.id}/mix", json=wish)
        assert (again.status_code, again.json()["version"]) == (200, 4)

    async def test_a_block_and_a_lesson(self, front: Front, course: CourseTree) -> None:
        wish = {
            "base": 3,
            "take": [{"node": "lesson-1.2", "from": 1}, {"node": "lesson-1.1/block-2", "from": 1}],
            "note": "The old river.",
        }
        made = (await front.http.post(f"/courses/{course.id}/mix", json=wish)).json()
        first, third = tree(await version(front, course, 1)), tree(await version(front, course, 3))
        mixed = tree(made)
        assert made["note"] == "The old river."
        assert {key for key in mixed if mixed[key] == first[key] != third[key]} == {
            "lesson-1.1", "lesson-1.1/block-2", "lesson-1.2", "lesson-1.2/block-1", "lesson-1.2/block-2",
        }  # fmt: skip
        assert mixed["lesson-1.1/slides"] == third["lesson-1.1/slides"]

    async def test_what_was_found_in_a_block_comes_and_goes_with_it(
        self, front: Front, course: CourseTree, app: FastAPI
    ) -> None:
        """What was found elsewhere in the lesson it comes from does not."""
        blocks = ("Moon: The moon pulls the sea.", "Sun: So does the sun.")
        await course.write_lesson(1, *blocks, findings=(finding("/summary"), finding("/blocks/1/heading")))
        assert await course.freeze() == 4
        blocks = ("Moon: The moon pulls.", "Sun: The sun pulls.")
        theirs = tuple(finding(f"/blocks/{place}/paragraphs/0") for place in (0, 1))
        await course.write_lesson(1, *blocks, findings=theirs)
        assert await course.freeze() == 5
        wish = {"base": 4, "take": [{"node": "lesson-1.1/block-2", "from": 5}]}
        assert (await front.http.post(f"/courses/{course.id}/mix", json=wish)).status_code == 201
        mixed = await lesson_of(app, course, "lesson-1.1")
        assert [one.pointer for one in mixed.findings] == ["/summary", "/blocks/1/paragraphs/0"]

    @pytest.mark.parametrize(
        ("wish", "named"),
        [
            ({"base": 9, "take": [{"node": "lesson-1.1", "from": 1}]}, ["/base"]),
            ({"base": 1, "take": [{"node": "lesson-1.1", "from": 9}]}, ["/take/0/from"]),
            ({"base": 1, "take": [{"node": "lesson-9.9", "from": 2}]}, ["/take/0/node"]),
            ({"base": 1, "take": [{"node": "outline", "from": 2}]}, ["/take/0/node"]),
            ({"base": 1, "take": [{"node": "nonsense", "from": 2}]}, ["/take/0/node"]),
            ({"base": 1, "take": []}, ["/take"]),
        ],
    )
    async def test_what_cannot_be_taken_is_named(
        self, front: Front, course: CourseTree, wish: dict[str, Any], named: list[str]
    ) -> None:
        assert pointers(await front.http.post(f"/courses/{course.id}/mix", json=wish)) == named
        assert (await front.http.get(f"/courses/{course.id}")).json()["latest_version"] == 3
