import json
import subprocess
from collections.abc import Iterable

import pytest

from domain.generation import Course
from rendering.course_markdown import course_markdown, course_mdx
from rendering.course_parts import Profile
from tests.support.courses import CONTENT, HOSTILE, LINES, PROVENANCE, make_course
from tests.support.judges import mdx_folder, program

# Compiles each document and says what in it is code: anything but the anchors and the one exported object.
_JUDGE = """
import {createProcessor} from '@mdx-js/mdx'
const read = async () => { let all = ''; for await (const part of process.stdin) all += part; return JSON.parse(all) }
const out = []
for (const document of await read()) {
  const code = [], text = []
  const look = (node) => {
    if (node.type.startsWith('mdx')) code.push([node.type, node.name ?? node.value.slice(0, 24)])
    if (['text', 'inlineCode', 'code'].includes(node.type)) text.push(node.value)
    for (const child of node.children ?? []) look(child)
  }
  try {
    await createProcessor({remarkPlugins: [() => look]}).process(document)
    out.push({code, text: text.join(' ')})
  } catch (error) { out.push({failed: String(error)}) }
}
process.stdout.write(JSON.stringify(out))
"""


def judged(documents: Iterable[bytes]) -> list[dict[str, object]]:
    """What the compiler makes of the documents."""
    folder = mdx_folder()
    given = json.dumps([document.decode() for document in documents])
    command = [program("node"), "--input-type=module", "--eval", _JUDGE]
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, timeout=170, check=True, text=True)
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def normal(text: object) -> str:
    return " ".join(str(text).split())


class TestCompiler:
    def test_no_text_becomes_code(self) -> None:
        """Every hostile text in every place: the document compiles, and holds the code of a harmless one."""
        lines = [text for text in HOSTILE if "\n" not in text]
        cases = [(field, text) for field in CONTENT for text in (lines if field in LINES else HOSTILE)]
        harmless = dict(zip(CONTENT, judged(minimal(CONTENT[field]("word")) for field in CONTENT), strict=True))
        found = judged(minimal(CONTENT[field](text)) for field, text in cases)
        for (field, text), one in zip(cases, found, strict=True):
            assert "failed" not in one, (field, text, one)
            assert one["code"] == harmless[field]["code"], (field, text)

    def test_words_that_open_code_are_read_as_words(self) -> None:
        texts = ["import {a} from 'b'", "export default 1", "export const x = {y: 1}", "{alert(1)} </div> <b/> {/*"]
        for text, one in zip(texts, judged(minimal(make_course(description=text)) for text in texts), strict=True):
            assert text in normal(one["text"])

    def test_metadata_is_one_object(self) -> None:
        courses = [PROVENANCE[field](text) for field in PROVENANCE for text in HOSTILE]
        for one in judged(course_mdx(course, profile="full") for course in [make_course(), *courses]):
            assert "failed" not in one, one
            code = one["code"]
            assert isinstance(code, list)
            assert [name for kind, name in code if kind == "mdxjsEsm"] == ["export const metadata = "]


class TestBytes:
    @pytest.mark.parametrize("profile", ["full", "minimal"])
    def test_equal_courses_give_equal_bytes(self, profile: Profile) -> None:
        assert course_mdx(make_course(), profile=profile) == course_mdx(make_course(), profile=profile)

    def test_minimal_is_the_markdown(self) -> None:
        assert minimal(make_course()) == course_markdown(make_course(), profile="minimal")

    def test_words_that_open_code_are_marked_without_a_compiler_too(self) -> None:
        body = minimal(make_course(description="import x\n\nexport y\n\nimportant z")).decode()

        assert "\n&#105;mport x\n" in body
        assert "\n&#101;xport y\n" in body
        assert "\nimportant z\n" in body


def minimal(course: Course) -> bytes:
    return course_mdx(course, profile="minimal")
