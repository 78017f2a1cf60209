import base64
import hashlib
import io
import itertools
import json
import queue
import re
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from lxml import etree, html  # type: ignore[import-untyped]

from domain.generation import Course
from rendering.course_parts import one_line
from rendering.course_scorm import course_scorm
from rendering.course_site import course_site
from tests.support.courses import CONTENT, HOSTILE, make_course, make_draft, make_lesson, make_module
from tests.support.judges import page_in_browser, visiting

NAMES = {"cp": "http://www.imsproject.org/xsd/imscp_rootv1p1p2", "adlcp": "http://www.adlnet.org/xsd/adlcp_rootv1p2"}
PACKAGES = {"site": course_site, "scorm": course_scorm}


def files(package: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pages(package: bytes) -> dict[str, Any]:
    found = files(package)
    return {name: html.document_fromstring(found[name].decode()) for name in found if name.endswith(".html")}


def site(course: Course, profile: Any = "minimal") -> dict[str, Any]:
    return pages(course_site(course, profile=profile))


def shape(document: Any) -> list[tuple[str, list[str]]]:
    """Everything on the page that is not text, headings' numbers of paragraphs and breaks aside."""
    return [
        (node.tag, sorted(node.keys()))
        for node in document.iter(etree.Element)
        if node.tag not in {"p", "br", "li", "ul"}
    ]


def course_of_two() -> Course:
    return make_course(modules=(make_module(lessons=(make_lesson(), make_lesson(title="Second"), make_draft())),))


class TestPages:
    def test_one_for_each_lesson_and_an_index(self) -> None:
        assert sorted(site(make_course())) == ["index.html", "lesson-1-1.html", "lesson-1-2.html"]

    @pytest.mark.parametrize("package", PACKAGES)
    def test_every_link_leads_to_a_file_of_the_package_or_a_place_on_the_page(self, package: str) -> None:
        found = pages(PACKAGES[package](course_of_two(), profile="full"))
        for document in found.values():
            ids = document.xpath("//@id")
            assert len(ids) == len(set(ids))
            for link in document.xpath("//@href"):
                assert link.removeprefix("#") in ids if link.startswith("#") else link in found

    @pytest.mark.parametrize("package", PACKAGES)
    def test_has_what_assistive_technology_looks_for(self, package: str) -> None:
        for document in pages(PACKAGES[package](course_of_two(), profile="full")).values():
            assert document.get("lang") == "en"
            assert document.findtext("head/title")
            assert document.xpath("//body/*[1]")[0].get("href") == "#main"
            assert len(document.xpath("//main[@id='main']")) == len(document.xpath("//h1")) == 1
            levels = [int(node.tag[1]) for node in document.iter("h1", "h2", "h3", "h4")]
            assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), levels
            for labelled in document.xpath("//@aria-labelledby | //label/@for"):
                assert document.get_element_by_id(labelled) is not None

    @pytest.mark.parametrize("package", PACKAGES)
    def test_nothing_outside_is_named_and_only_our_scripts_may_run(self, package: str) -> None:
        for name, raw in files(PACKAGES[package](course_of_two(), profile="full")).items():
            if not name.endswith(".html"):
                continue
            document = html.document_fromstring(raw.decode())
            assert not re.search(
                rb"(src|action|srcset|@import|url\()\s*=?", raw.split(b"<body>")[1].split(b"<script")[0]
            )
            assert b"http://" not in raw
            assert b"https://" not in raw
            policy = document.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0]
            code = [node.text for node in document.xpath("//script[not(@type)] | //style")]
            allowed = {f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in code}
            assert set(re.findall(r"'sha256-[^']+'", policy)) == allowed
            assert policy.startswith("default-src 'none'; ")

    def test_provenance_is_in_the_full_profile_alone(self) -> None:
        assert site(make_course(), "full")["index.html"].xpath("//footer")
        assert not site(make_course())["index.html"].xpath("//footer")
        assert "5e" * 32 not in "".join(one.text_content() for one in site(make_course()).values())

    def test_lessons_are_linked_to_their_neighbours(self) -> None:
        found = site(course_of_two())

        assert found["lesson-1-2.html"].xpath("//nav//@href") == ["lesson-1-1.html", "index.html", "lesson-1-3.html"]
        assert found["lesson-1-1.html"].xpath("//nav//@href") == ["index.html", "lesson-1-2.html"]


class TestHostileText:
    @pytest.mark.parametrize("package", PACKAGES)
    @pytest.mark.parametrize("field", CONTENT)
    def test_changes_nothing_but_text(self, package: str, field: str) -> None:
        expected = {
            name: shape(one) for name, one in pages(PACKAGES[package](CONTENT[field]("word"), profile="full")).items()
        }
        for hostile in (*HOSTILE, "=1+1", "\x00\x01\x1b", "w" * 10_000):
            line = one_line(hostile)
            found = pages(PACKAGES[package](CONTENT[field](line), profile="full"))
            assert {name: shape(one) for name, one in found.items()} == expected, hostile


class TestSearch:
    def test_the_index_carries_the_text_of_finished_lessons(self) -> None:
        (data,) = site(course_of_two())["index.html"].xpath("//script[@id='data']/text()")
        entries = json.loads(data)

        assert [entry[0] for entry in entries] == ["lesson-1-1.html", "lesson-1-2.html", "lesson-1-3.html"]
        assert "Everything in memory is gone." in entries[0][2]
        assert entries[2][2] == "Choose a catch-up rule"

    def test_no_text_ends_the_data(self) -> None:
        for hostile in HOSTILE:
            (data,) = site(CONTENT["block.paragraphs"](hostile))["index.html"].xpath("//script[@id='data']/text()")
            assert one_line(hostile).split()[0][:20] in json.loads(data)[0][2]

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("second", ["1.2 Second"]),
            ("MEMORY%20gone", ["1.1 Why work must outlive its process", "1.2 Second"]),
            ("%3Cscript%3E", []),
            ("catch-up", ["1.3 Schedules and missed runs"]),
        ],
    )
    def test_works_from_a_folder(self, tmp_path: Path, query: str, found: list[str]) -> None:
        for name, body in files(course_site(course_of_two(), profile="full")).items():
            (tmp_path / name).write_bytes(body)
        after = html.document_fromstring(
            page_in_browser(f"file://{tmp_path}/index.html#q={query}", tmp_path / "browser")
        )

        assert after.xpath("//ol[@id='results']/li/a/text()") == found
        said = after.get_element_by_id("found").text_content()
        assert said == (f"Lessons found: {len(found)}" if found else "Nothing found.")


class TestManifest:
    def test_names_every_file_and_each_finished_lesson_as_sco(self) -> None:
        found = files(course_scorm(course_of_two(), profile="full"))
        manifest = etree.fromstring(found["imsmanifest.xml"])
        items = manifest.xpath("//cp:item[@identifierref]/@identifierref", namespaces=NAMES)
        resources = {one.get("identifier"): one for one in manifest.iterfind(".//cp:resource", NAMES)}
        kinds = {one.get("href"): one.get(f"{{{NAMES['adlcp']}}}scormtype") for one in resources.values()}

        assert [node.tag.rpartition("}")[2] for node in manifest] == ["metadata", "organizations", "resources"]
        assert manifest.findtext("cp:metadata/cp:schema", None, NAMES) == "ADL SCORM"
        assert manifest.findtext("cp:metadata/cp:schemaversion", None, NAMES) == "1.2"
        (organizations,) = manifest.iterfind("cp:organizations", NAMES)
        assert organizations.get("default") == organizations[0].get("identifier")
        assert sorted(items) == sorted(resources)
        assert kinds == {
            "overview.html": "asset",
            "lesson-1-1.html": "sco",
            "lesson-1-2.html": "sco",
            "lesson-1-3.html": "asset",
        }
        assert {one[0].get("href") for one in resources.values()} == set(found) - {"imsmanifest.xml"}
        ids = manifest.xpath("//@identifier")
        assert len(ids) == len(set(ids))
        assert all(re.fullmatch(r"[A-Za-z_][\w.-]*", one) for one in ids)  # xs:ID
        assert all(one[0].tag.endswith("title") for one in manifest.iterfind(".//cp:item", NAMES))

    @pytest.mark.parametrize("field", ["course.title", "module.title", "lesson.title", "draft.title"])
    def test_any_title_stays_text(self, field: str) -> None:
        for hostile in (*HOSTILE, "\x00\x08\x1b\ufffe"):
            raw = files(course_scorm(CONTENT[field](one_line(hostile)), profile="minimal"))["imsmanifest.xml"]
            titles = [node.text for node in etree.fromstring(raw).iterfind(".//cp:title", NAMES)]
            assert any(one_line(hostile)[:180].strip() in (title or "") for title in titles), hostile
            assert all(len(title or "") <= 200 for title in titles)


_LMS = """<!doctype html><title>LMS</title><script>
const said = []
const log = (...words) => { said.push(words.join(' ')); return 'true' }
const tell = () => { log('finish'); fetch('/log', {method: 'POST', body: said.join('\\n')}); return 'true' }
window.API = {LMSInitialize: () => log('initialize'), LMSFinish: tell, LMSCommit: () => 'true',
  LMSGetValue: () => 'not attempted', LMSSetValue: (name, value) => react(log(name, value), value)}
// The learner scrolls down until the lesson is completed, and goes on then, however slow the browser is.
let scrolling
const react = (done, value) => {
  const frame = document.querySelector('iframe')
  if (value === 'incomplete') scrolling = setInterval(() => frame.contentWindow.scrollTo(0, 1e6), 300)
  if (value === 'completed') { clearInterval(scrolling); setTimeout(() => { frame.src = 'about:blank' }, 100) }
  return done
}
</script><iframe src="lesson-1-1.html" width="800" height="200"></iframe>"""


class TestSco:
    def test_tells_the_lms_when_the_lesson_was_read(self, tmp_path: Path) -> None:
        for name, body in files(course_scorm(course_of_two(), profile="full")).items():
            (tmp_path / name).write_bytes(body)
        (tmp_path / "lms.html").write_text(_LMS)
        said: queue.Queue[str] = queue.Queue()
        serve = partial(_Lms, directory=str(tmp_path), said=said)
        with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with visiting(f"http://127.0.0.1:{server.server_port}/lms.html", tmp_path / "browser"):
                log = said.get(timeout=120).splitlines()
            server.shutdown()

        began = ["initialize", "cmi.core.lesson_status incomplete", "cmi.core.lesson_status completed"]
        assert log[: len(began)] == began
        assert re.fullmatch(r"cmi\.core\.session_time 0000:0\d:\d\d", log[len(began)])
        assert log[-1] == "finish"

    def test_is_a_plain_page_where_there_is_no_lms(self, tmp_path: Path) -> None:
        """Also inside a frame of somebody else, whose windows it may not even look at."""
        for name, body in files(course_scorm(course_of_two(), profile="full")).items():
            (tmp_path / name).write_bytes(body)
        (tmp_path / "frame.html").write_text('<iframe src="lesson-1-1.html"></iframe><p id="log">still here</p>')
        for page in ("lesson-1-1.html", "frame.html"):
            assert page_in_browser(f"file://{tmp_path}/{page}", tmp_path / "browser")


class _Lms(SimpleHTTPRequestHandler):
    """Serves the pages, and takes what the learning platform wrote down."""

    def __init__(self, *args: Any, said: "queue.Queue[str]", **kwargs: Any) -> None:
        self._said = said
        super().__init__(*args, **kwargs)

    def do_POST(self) -> None:
        """What was said, from the first call to the last."""
        self._said.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
