"""What holds for every export."""

# ruff: noqa: RUF001 - letters of every alphabet are meant

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from domain.generation import Export
from rendering.course_json import course_json
from rendering.course_parts import Profile
from rendering.exports import render
from rendering.packages import packed
from tests.rendering.record_schemas import path_of, text_of
from tests.support.courses import CONTENT, HOSTILE, make_course

ROOT = Path(__file__).resolve().parents[2]
PROFILES: tuple[Profile, ...] = ("full", "minimal")
ARCHIVES = (Export.SITE, Export.PPTX, Export.SCORM)
_DIGESTS = "from tests.rendering.test_exports import digests; print(digests())"


def digests() -> str:
    """The digest of every export, as the other processes compute it."""
    course = CONTENT["block.paragraphs"]("Курс <b> {x} =1+1")
    found = {
        f"{export.value} {profile}": hashlib.sha256(render(course, export=export, profile=profile).body).hexdigest()
        for export in Export
        for profile in PROFILES
    }
    return json.dumps(found)


class TestBytes:
    def test_every_process_makes_the_same(self) -> None:
        """Whatever the seed of its hashes and its time zone."""
        said = {
            subprocess.run(
                [sys.executable, "-c", _DIGESTS], cwd=ROOT, check=True, capture_output=True, text=True,
                env={**os.environ, "PYTHONHASHSEED": seed, "TZ": zone}, timeout=120,
            ).stdout.strip()
            for seed, zone in (("0", "UTC"), ("4711", "Asia/Tokyo"))
        }  # fmt: skip

        assert said == {digests()}

    @pytest.mark.parametrize("export", ARCHIVES)
    def test_an_archive_tells_nothing_of_its_making(self, export: Export) -> None:
        with zipfile.ZipFile(io.BytesIO(render(make_course(), export=export, profile="full").body)) as package:
            entries = package.infolist()

        assert [entry.filename for entry in entries] == sorted({entry.filename for entry in entries})
        assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}

    @settings(deadline=None, database=None, max_examples=50)
    @given(st.dictionaries(st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1), st.binary()))
    def test_the_order_of_files_does_not_matter(self, files: dict[str, bytes]) -> None:
        body = packed(files)

        assert packed(dict(reversed(files.items()))) == body


class TestSchema:
    @pytest.mark.parametrize("profile", PROFILES)
    def test_the_published_schema_is_current(self, profile: Profile) -> None:
        """Where it is not: python -m tests.rendering.record_schemas."""
        assert path_of(profile).read_text(encoding="utf-8") == text_of(profile)

    @pytest.mark.parametrize("profile", PROFILES)
    def test_every_document_satisfies_it(self, profile: Profile) -> None:
        schema = json.loads(path_of(profile).read_text(encoding="utf-8"))
        Draft202012Validator.check_schema(schema)
        validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        for field in CONTENT:
            document = json.loads(course_json(CONTENT[field]("<script> =1+1 Русский"), profile=profile))
            validator.validate(document)
            assert not validator.is_valid(document | {"unknown": 1})
            assert not validator.is_valid({key: value for key, value in document.items() if key != "modules"})


class TestHostileText:
    @pytest.mark.parametrize("export", Export)
    def test_no_text_stops_an_export(self, export: Export) -> None:
        """Texts of every kind in every place; control characters as only a renderer meets them."""
        texts = (
            *HOSTILE[:3],
            "=1+1",
            "@SUM(A1)",
            "\x00\x01\x1b\x7f\ufffe",
            "w" * 10_000,
            "Щ" * 10_000,
            "]]>",
            "_x000D_",
        )
        for field in CONTENT:
            for text in texts:
                assert render(CONTENT[field](text), export=export, profile="minimal").body
