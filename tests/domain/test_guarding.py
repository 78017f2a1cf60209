"""What a policy makes of findings: marks, positions, counts. Found here by a toy detector that knows two words."""

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.guarding import (
    SHORT_MARK,
    ContentPolicy,
    FindingKind,
    GuardAction,
    Judgement,
    Marks,
    Spot,
    Verdict,
    count_findings,
    guard_texts,
    judged_spots,
    names_of,
    readable,
    sum_counts,
    texts_of,
    with_texts,
)

WORDS: Final = {"aaaa@bb.cc": FindingKind.EMAIL, "dddd@ee.ff": FindingKind.EMAIL, "1234567": FindingKind.PHONE}
_WORD: Final = re.compile("|".join(map(re.escape, WORDS)))


def spots(text: str) -> Sequence[Spot]:
    """Where the words are."""
    return [Spot(WORDS[match[0]], match.start(), match.end(), 1.0, "test.word") for match in _WORD.finditer(text)]


def guarded(text: str, policy: ContentPolicy | None = None, language: str = "en") -> tuple[str, list[str]]:
    """The text as it is kept, and what stands at the place of each finding in it."""
    result = guard_texts([("/t", text, spots(text))], policy or ContentPolicy(), language=language)
    kept = result.changed.get("/t", text)
    return kept, [kept[finding.start : finding.end] for finding in result.findings]


class TestPolicy:
    def test_defaults(self) -> None:
        """Personal data is masked, severe harm is blocked, other harm is told."""
        policy = ContentPolicy()
        assert policy.action_for(FindingKind.CARD) is GuardAction.MASK
        assert policy.action_for(FindingKind.SEVERE) is GuardAction.BLOCK
        assert policy.action_for(FindingKind.HARMFUL) is GuardAction.FLAG

    @pytest.mark.parametrize("kind", ["severe", "harmful"])
    def test_a_judgement_cannot_be_masked(self, kind: str) -> None:
        with pytest.raises(ValidationError):
            ContentPolicy.model_validate({kind: "mask"})

    def test_every_kind_has_an_action(self) -> None:
        assert {ContentPolicy().action_for(kind) for kind in FindingKind} <= set(GuardAction)


class TestMarks:
    def test_the_same_thing_gets_the_same_mark(self) -> None:
        """Another of its kind gets a number, so that two people stay two."""
        kept, marks = guarded("aaaa@bb.cc, dddd@ee.ff, aaaa@bb.cc")
        assert kept == "[e-mail], [e-mail 2], [e-mail]"
        assert marks == ["[e-mail]", "[e-mail 2]", "[e-mail]"]

    def test_marks_speak_the_language(self) -> None:
        assert Marks("ru").mark(FindingKind.PHONE, "+7 916 123-45-67") == "[телефон]"
        assert Marks("ru-RU").mark(FindingKind.CARD, "4111 1111 1111 1111") == "[номер карты]"
        assert Marks("fr").mark(FindingKind.PHONE, "+33 1 42 68 53 00") == "[phone]"

    def test_a_mark_is_never_longer_than_the_thing(self) -> None:
        """Masked text fits wherever the text did."""
        assert Marks("ru").mark(FindingKind.EMAIL, "a@b.ru") == SHORT_MARK
        assert len(SHORT_MARK) <= len("a@b.ru")

    @given(st.lists(st.one_of(st.sampled_from(sorted(WORDS)), st.text(max_size=5)), max_size=12))
    def test_masked_text_is_no_longer_and_holds_nothing(self, pieces: list[str]) -> None:
        """Whatever stands around and between."""
        text = " ".join(pieces)
        kept, marks = guarded(text)
        assert len(kept) <= len(text)
        assert spots(kept) == []
        assert len(marks) == len(spots(text))
        assert all(mark.startswith("[") and mark.endswith("]") for mark in marks)


class TestActions:
    def test_flagged_text_stays(self) -> None:
        kept, found = guarded("to aaaa@bb.cc", ContentPolicy(email=GuardAction.FLAG))
        assert (kept, found) == ("to aaaa@bb.cc", ["aaaa@bb.cc"])

    def test_allowed_things_are_not_told(self) -> None:
        assert guarded("to aaaa@bb.cc", ContentPolicy(email=GuardAction.ALLOW)) == ("to aaaa@bb.cc", [])

    def test_positions_are_those_of_the_text_as_kept(self) -> None:
        """Also behind a mark that is shorter than what it stands for."""
        policy = ContentPolicy(phone=GuardAction.FLAG)
        assert guarded("aaaa@bb.cc 1234567 dddd@ee.ff", policy)[1] == ["[e-mail]", "1234567", "[e-mail 2]"]

    def test_positions_count_code_points(self) -> None:
        assert guarded("😀é aaaa@bb.cc", ContentPolicy(email=GuardAction.FLAG))[1] == ["aaaa@bb.cc"]

    def test_one_blocked_finding_blocks(self) -> None:
        policy = ContentPolicy(phone=GuardAction.BLOCK)
        findings = guard_texts([("", text, spots(text)) for text in ("aaaa@bb.cc", "1234567")], policy, language="en")
        verdict = Verdict(findings=findings.findings)
        assert verdict.blocked
        assert verdict.masked == {FindingKind.EMAIL}

    def test_no_finding_holds_what_was_found(self) -> None:
        findings = guard_texts([("/t", "aaaa@bb.cc", spots("aaaa@bb.cc"))], ContentPolicy(), language="en").findings
        assert "aaaa" not in findings[0].model_dump_json()

    def test_counts(self) -> None:
        text = "aaaa@bb.cc dddd@ee.ff 1234567"
        policy = ContentPolicy(phone=GuardAction.FLAG)
        counts = count_findings(guard_texts([("", text, spots(text))], policy, language="en").findings)
        assert counts == {"email": {"mask": 2}, "phone": {"flag": 1}}
        assert sum_counts([counts, counts, {}]) == {"email": {"mask": 4}, "phone": {"flag": 2}}


class TestDocuments:
    DOCUMENT: Final[dict[str, Any]] = {"a/b": ["x", {"c~": "y", "n": 4111111111111111}], "k": 5, "t": True, "z": None}

    def test_every_string_with_its_pointer(self) -> None:
        """Long numbers count as strings: a card number may have lost its quotes."""
        assert dict(texts_of(self.DOCUMENT)) == {
            "/a~1b/0": "x",
            "/a~1b/1/c~0": "y",
            "/a~1b/1/n": "4111111111111111",
        }
        assert set(names_of(self.DOCUMENT)) == {"a/b", "c~", "n", "k", "t", "z"}

    def test_strings_are_replaced_by_pointer(self) -> None:
        changed = with_texts(self.DOCUMENT, {"/a~1b/1/n": "[…]", "/a~1b/0": "X"})
        assert changed == {"a/b": ["X", {"c~": "y", "n": "[…]"}], "k": 5, "t": True, "z": None}
        assert with_texts("whole", {"": "W"}) == "W"

    @given(st.text())
    def test_readable_keeps_every_place(self, text: str) -> None:
        """Also of text cut off in the middle of an escape."""
        raw = json.dumps(text)
        for cut in (raw, raw[:-1], raw[: len(raw) // 2]):
            assert len(readable(cut)) == len(cut)

    @pytest.mark.parametrize(("raw", "seen"), [
        (r"a\u0040b", "a@b"), (r"x\n8 916", "x 8 916"), (r"\"q\"", '"q"'), ("plain", "plain"), ("\\", "\\"),
    ])  # fmt: skip
    def test_readable_undoes_escapes(self, raw: str, seen: str) -> None:
        """What hides a character from a search, or glues one to a number."""
        assert readable(raw).replace("\0", "") == seen


class TestJudgements:
    def test_severe_and_harmful_are_told_apart(self) -> None:
        """One of each kind at most, by the category that is surest."""
        judgement = Judgement(categories={"violence": 0.7, "hate": 0.9, "hate/threatening": 0.6, "sexual/minors": 0.5})
        found = list(judged_spots(judgement, length=9, moderator="openai"))
        assert [(spot.kind, spot.detector, spot.confidence, spot.start, spot.end) for spot in found] == [
            (FindingKind.HARMFUL, "openai.hate", 0.9, 0, 9),
            (FindingKind.SEVERE, "openai.hate/threatening", 0.6, 0, 9),
        ]

    def test_no_objection_is_no_finding(self) -> None:
        assert list(judged_spots(Judgement(), length=9, moderator="openai")) == []
