"""Judging records and cutting them into pieces: whatever the chunks, the same records at the same places."""

import csv
import io
import json
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import InvalidInput
from domain.saving import BatchCounts, ImportInput, Verdict, verdict_of
from domain.saving_csv import CsvShape, cut_rows
from domain.saving_pieces import PIECE_BYTES, Piece, PieceMaker, index_of
from domain.saving_records import COLLECTIONS, all_good, fault_of

MESSAGES, USERS = COLLECTIONS["messages"], COLLECTIONS["users"]


def message(**changes: object) -> dict[str, object]:
    return {
        "id": str(uuid4()), "dialog_id": "d", "user_id": "u", "role": "user", "content": "hi",
        "created_at": "2026-11-20T10:00:00Z", **changes,
    }  # fmt: skip


def line(**changes: object) -> bytes:
    return json.dumps(message(**changes)).encode()


def raw(name: str, value: bytes) -> bytes:
    """A message with a member whose value is given as it is written."""
    return line()[:-1] + b', "' + name.encode() + b'": ' + value + b"}"


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


class TestJudging:
    @pytest.mark.parametrize(
        "good",
        [
            line(),
            line(content="\U0001f600 \\ \t \n é"),
            line(content=""),
            line(dialog_id=17, user_id=-5),
            line(metadata={"a": [1, 2.5, None, True]}),
            raw("metadata", nested(99)),
            raw("metadata", b'{"big": 123456789012345678901234567890}'),
            line(created_at="2026-11-20T10:00:00+15:59"),
            line(content="not a zone +17:00"),
            raw("tokens", b"null"),
            line(content="\\u0000 as six characters"),
            line(created_at="9999-12-31T23:59:59.999999Z"),
            line(created_at="0001-01-01T00:00:00Z"),
            line(created_at="9999-12-31T23:59:59+00:30"),
            raw("metadata", b'{"a": [1e-300, 0e999, 1.5E-0005]}'),
            raw("metadata", b'{"a": "5e-20000 "}'),
            raw("metadata", b'{"a": 0.' + b"1" * 16_000 + b"}"),
        ],
    )
    def test_good(self, good: bytes) -> None:
        assert fault_of(MESSAGES, good) is None
        maker = PieceMaker(MESSAGES, max_record_bytes=262_144)
        pieces = [*maker.feed(b"\r\n".join([line(), good, line()])), *maker.finish()]
        assert [(piece.records, piece.refused) for piece in pieces] == [(3, False)]

    @pytest.mark.parametrize(
        ("bad", "code", "pointer"),
        [
            (b"", "E.RECORD.MALFORMED", ""),
            (b"{", "E.RECORD.MALFORMED", ""),
            (b"[]", "E.RECORD.INVALID", ""),
            (b"{}", "E.RECORD.INVALID", ""),
            (line(typo=1), "E.RECORD.INVALID", ""),
            (line(tokens=-1), "E.RECORD.INVALID", "/tokens"),
            (line(tokens=2**31), "E.RECORD.INVALID", "/tokens"),
            (line(tokens="5"), "E.RECORD.INVALID", "/tokens"),
            (line(id="no uuid"), "E.RECORD.INVALID", "/id"),
            (line(created_at="2026-11-20T10:00:00"), "E.RECORD.INVALID", "/created_at"),
            (line(created_at="2026-11-20T10:00:00+17:00"), "E.RECORD.INVALID", "/created_at"),
            (line(created_at="2026-11-20T10:00:00-16:00"), "E.RECORD.INVALID", "/created_at"),
            (line(content="a\x00b"), "E.RECORD.TEXT", ""),
            (raw("metadata", b'{"\\u0000": 1}'), "E.RECORD.TEXT", ""),
            (raw("model", b'"\\ud800 alone"'), "E.RECORD.MALFORMED", ""),
            (raw("model", b'"\\udc00 alone"'), "E.RECORD.MALFORMED", ""),
            (raw("model", b'"\xff"'), "E.RECORD.MALFORMED", ""),
            (raw("metadata", b'{"a": 1e400}'), "E.RECORD.INVALID", "/metadata"),
            (raw("metadata", b'{"a": ' + b"9" * 5_000 + b"}"), "E.RECORD.INVALID", "/metadata"),
            (raw("metadata", b'{"a": 1e-20000}'), "E.RECORD.INVALID", "/metadata"),
            (raw("metadata", b'{"a": [0E9999999999]}'), "E.RECORD.INVALID", "/metadata"),
            (raw("metadata", b'{"a": 0e' + b"9" * 5_000 + b"}"), "E.RECORD.INVALID", "/metadata"),
            (raw("metadata", b'{"a": 0.' + b"1" * 17_000 + b"}"), "E.RECORD.INVALID", "/metadata"),
            (line(created_at="9999-12-31T23:59:59-10:00"), "E.RECORD.INVALID", "/created_at"),
            (line(created_at="0001-01-01T00:00:00+10:00"), "E.RECORD.INVALID", "/created_at"),
            (line(created_at="2026-11-20T10:00:00+16:30").replace(b"+", b"\\u002b"), "E.RECORD.INVALID", "/created_at"),
            (
                line(created_at="9999-12-31T23:59:59-10:00").replace(b"9999", b"\\u0039999"),
                "E.RECORD.INVALID",
                "/created_at",
            ),
            (raw("metadata", nested(100)), "E.RECORD.TOO_DEEP", ""),
            (raw("metadata", nested(10_000)), "E.RECORD.TOO_DEEP", ""),
        ],
    )
    def test_bad(self, bad: bytes, code: str, pointer: str) -> None:
        fault = fault_of(MESSAGES, bad)
        assert fault is not None
        assert (fault.code, fault.pointer) == (code, pointer)
        assert all_good(MESSAGES, bad) in {None, 0}

    @pytest.mark.parametrize(
        "name", ["a\x00b", "\x1b[31m", "x\ny", "\u2028", "k" * 250_000, "x` - at `$." + "\x00y" * 900]
    )
    def test_what_is_told_is_short_and_printable(self, name: str) -> None:
        """A name that came with the record stands in the message; PostgreSQL and a reader have to bear it."""
        fault = fault_of(MESSAGES, line(**{name: 1}))
        assert fault is not None
        assert fault.code == "E.RECORD.INVALID"
        assert len(fault.message) <= 200
        assert len(fault.pointer) <= 200
        assert (fault.message + fault.pointer).isprintable()

    def test_many_at_once(self) -> None:
        assert all_good(MESSAGES, b"\n".join(line() for _ in range(500))) == 500
        assert all_good(MESSAGES, b"\n".join([line(), line(tokens=-1)])) is None

    def test_many_braces_are_not_depth(self) -> None:
        wide = line(metadata={str(number): {} for number in range(150)})
        assert all_good(MESSAGES, b"\n".join([wide, wide])) == 2
        assert fault_of(MESSAGES, wide) is None


def cut(chunks: list[bytes], *, most: int = 262_144) -> tuple[PieceMaker, list[Piece]]:
    maker = PieceMaker(USERS, max_record_bytes=most)
    pieces = [piece for chunk in chunks for piece in maker.feed(chunk)]
    return maker, [*pieces, *maker.finish()]


def places(pieces: list[Piece]) -> dict[int, bytes]:
    """Good records by their index."""
    return {
        index_of(piece.first_index, piece.skipped, place): text
        for piece in pieces
        if not piece.refused
        for place, text in enumerate(piece.body.split(b"\n"))
    }


class TestCutting:
    @given(
        kinds=st.lists(st.sampled_from(["good", "bad", "blank", "long"]), max_size=30),
        cuts=st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=10),
        ending=st.sampled_from([b"", b"\n", b"\r\n"]),
    )
    def test_the_chunks_do_not_matter(self, kinds: list[str], cuts: list[int], ending: bytes) -> None:
        """However a body is cut up on its way, each record has the index of its place among the records."""
        texts = {"bad": b'{"id": 1}', "blank": b"  ", "long": b'{"id": "' + b"x" * 200 + b'"}'}
        lines = [texts.get(kind, b'{"id":"%d","version":1}' % number) for number, kind in enumerate(kinds)]
        body = b"\n".join(lines) + ending
        chunks: list[bytes] = []
        position = 0
        while position < len(body):
            step = cuts[len(chunks) % len(cuts)]
            chunks.append(body[position : position + step])
            position += step
        maker, pieces = cut(chunks, most=120)
        records = [(kind, text) for kind, text in zip(kinds, lines, strict=True) if kind != "blank"]
        good = {index: text for index, (kind, text) in enumerate(records) if kind == "good"}
        assert {index: text.rstrip(b"\r") for index, text in places(pieces).items()} == good
        bad = [index for index, (kind, _) in enumerate(records) if kind != "good"]
        assert [refusal.index for refusal in maker.tally.refusals] == bad
        assert (maker.tally.received, maker.tally.rejected) == (len(records), len(bad))
        assert sum(piece.records for piece in pieces) == len(records)

    def test_memory_is_bounded(self) -> None:
        """A line without an end is refused once, and not collected."""
        maker = PieceMaker(USERS, max_record_bytes=1_000_000)
        pieces = []
        for _ in range(200):
            pieces += list(maker.feed(b"x" * PIECE_BYTES))
            assert maker.held_bytes < 1_000_000 + 2 * PIECE_BYTES
        pieces += list(maker.feed(b'\n{"id":"a","version":1}'))
        pieces += list(maker.finish())
        assert [refusal.code for refusal in maker.tally.refusals] == ["E.RECORD.TOO_LARGE"]
        assert places(pieces) == {1: b'{"id":"a","version":1}'}

    def test_bad_lines_are_cut_as_well(self) -> None:
        """Short and bad lines are told in pieces that are not much longer than others, and come one by one."""
        maker = PieceMaker(USERS, max_record_bytes=1_000_000)
        body = b"x\n" * PIECE_BYTES
        pieces = maker.feed(body)
        assert next(pieces).records == 1_000
        assert maker.tally.received == 1_000  # no more was judged than was asked for
        found = [*pieces, *maker.finish()]
        assert max(len(piece.body) for piece in found) < PIECE_BYTES
        assert maker.tally.received == maker.tally.rejected == PIECE_BYTES

    def test_many_pieces(self) -> None:
        body = b"\n".join(b'{"id":"%d","version":1}' % number for number in range(40_000))
        _, pieces = cut([body])
        assert len(pieces) >= 4
        assert places(pieces)[39_999] == b'{"id":"39999","version":1}'

    def test_two_records_on_a_line_are_none(self) -> None:
        maker, _ = cut([b'{"id":"a","version":1}{"id":"b","version":1}'])
        assert (maker.tally.received, maker.tally.rejected) == (1, 1)

    @pytest.mark.parametrize(
        ("body", "good", "bad"),
        [
            (b"A B\n\nC", {1: b"C"}, [0]),
            (b"AB\n\nC", {1: b"C"}, [0]),
            (b"A\n B\nC", {0: b"A", 1: b" B", 2: b"C"}, []),
            (b"A\n\n\r\n  \nB\r\n", {0: b"A", 1: b"B"}, []),
            (b"A B\n{\n}", {}, [0, 1, 2]),
        ],
    )
    def test_a_record_is_a_line_and_a_line_a_record(self, body: bytes, good: dict[int, bytes], bad: list[int]) -> None:
        """Blank lines beside lines with two records on them do not make up for each other."""
        records = {name: b'{"id":"%s","version":1}' % name for name in (b"A", b"B", b"C")}

        def written(text: bytes) -> bytes:
            for name, record in records.items():
                text = text.replace(name, record)
            return text

        maker, pieces = cut([written(body)])
        assert places(pieces) == {index: written(text) for index, text in good.items()}
        assert [refusal.index for refusal in maker.tally.refusals] == bad
        assert maker.tally.received == len(good) + len(bad)


def rows_of(data: bytes, *, at_end: bool = True) -> list[tuple[bytes, int]]:
    return list(cut_rows(data, at_end=at_end, most_bytes=100))


class TestCsv:
    def test_types(self) -> None:
        shape = CsvShape(MESSAGES, b"\xef\xbb\xbfid,tokens,metadata,content,user_id")
        made = json.loads(shape.to_json(b'1,5,"{""a"":[1]}","two\nlines",42'))
        assert made == {"id": "1", "tokens": 5, "metadata": {"a": [1]}, "content": "two\nlines", "user_id": "42"}
        assert json.loads(shape.to_json(b",,,,x")) == {"user_id": "x"}
        assert json.loads(shape.to_json(b"1,x,{,c,u"))["tokens"] == "x"
        assert json.loads(shape.to_json(b"1,2,,c,u,more"))["more values than columns"] == ["more"]

    def test_booleans(self) -> None:
        shape = CsvShape(USERS, b"id,version,premium,blocked")
        assert json.loads(shape.to_json(b"a,1,TRUE,0")) == {"id": "a", "version": 1, "premium": True, "blocked": False}

    def test_rows_are_cut_where_no_quote_is_open(self) -> None:
        data = b'a,b\n1,"x\ny"\n2,"z'
        assert rows_of(data, at_end=False) == [(b"a,b", 4), (b'1,"x\ny"', 12)]
        assert rows_of(data) == [(b"a,b", 4), (b'1,"x\ny"', 12), (b'2,"z', len(data))]

    @pytest.mark.parametrize(
        ("data", "rows"),
        [
            (b'1,5" pipe\n2,x\n3,6" pipe\n4,y', [b'1,5" pipe', b"2,x", b'3,6" pipe', b"4,y"]),
            (b'1,"a ""b""\nc",2\r\n3', [b'1,"a ""b""\nc",2', b"3"]),
            (b'"1\n2",""\n"3"', [b'"1\n2",""', b'"3"']),
            (b'1,"never closed\n2,x\n3,y', [b'1,"never closed', b"2,x", b"3,y"]),
            (b'1,"closed too far away ' + b"\nx" * 60 + b'",2', [b'1,"closed too far away ', *[b"x"] * 59, b'x",2']),
        ],
    )
    def test_a_quote_is_one_only_at_the_beginning_of_a_field(self, data: bytes, rows: list[bytes]) -> None:
        assert [row for row, _ in rows_of(data)] == rows

    @given(
        rows=st.lists(st.lists(st.text('ab",\n', max_size=6), min_size=2, max_size=3), min_size=1, max_size=8),
        cut_at=st.integers(0, 100),
    )
    def test_what_was_written_as_csv_is_cut_into_the_same_rows(self, rows: list[list[str]], cut_at: int) -> None:
        """Whatever is in the fields, and wherever what was read ends."""
        file = io.StringIO(newline="")
        csv.writer(file).writerows(rows)
        data = file.getvalue().encode()
        found = rows_of(data[:cut_at], at_end=cut_at >= len(data))
        position = found[-1][1] if found else 0
        found += rows_of(data[position:]) if position < len(data) else []
        assert [next(csv.reader(io.StringIO(row.decode(), newline=""))) for row, _ in found] == rows

    @pytest.mark.parametrize("row", [b"1,a\r2,b", b'1,"a"b', b'1,"a', b'"1\n'])
    def test_what_is_no_row_is_no_record(self, row: bytes) -> None:
        """Nothing of it is left out: it is refused as it is."""
        made = json.loads(CsvShape(USERS, b"id,version").to_json(row))
        assert made == {"malformed row": row.decode()}

    def test_long_fields_and_documents_come_through(self) -> None:
        shape = CsvShape(MESSAGES, b"content,metadata")
        assert json.loads(shape.to_json(b"x" * 200_000 + b","))["content"] == "x" * 200_000
        made = shape.to_json(b'c,"{""price"":\n1.10}"')
        assert made == b'{"content":"c","metadata":{"price": 1.10}}'

    @pytest.mark.parametrize("header", [b"", b"id,id", b"id\rversion", b'id,"version'])
    def test_a_header_that_is_none(self, header: bytes) -> None:
        with pytest.raises(InvalidInput):
            CsvShape(USERS, header)

    def test_bytes_that_are_no_text_are_left_to_the_judge(self) -> None:
        shape = CsvShape(USERS, b"id,version")
        assert fault_of(USERS, shape.to_json(b"\xff,1")) is not None
        assert shape.to_json(b'"\xff\n",1') == b'"\xff ",1'


class TestRules:
    @pytest.mark.parametrize(
        ("sqlstate", "verdict"),
        [
            ("22P02", Verdict.POISON), ("23514", Verdict.POISON), ("54000", Verdict.POISON),
            ("40001", Verdict.RETRY), ("40P01", Verdict.RETRY), ("53100", Verdict.RETRY), ("57P01", Verdict.RETRY),
            ("08006", Verdict.RETRY), ("55P03", Verdict.RETRY), ("25006", Verdict.RETRY), (None, Verdict.RETRY),
            ("42P01", Verdict.STOP), ("28000", Verdict.STOP), ("3F000", Verdict.STOP),
        ],
    )  # fmt: skip
    def test_verdicts(self, sqlstate: str | None, verdict: Verdict) -> None:
        assert verdict_of(sqlstate) is verdict

    def test_pending(self) -> None:
        assert BatchCounts(received=10, saved=4, deduplicated=3, dead=1).pending == 2

    @pytest.mark.parametrize("name", ["../x", "/x", "a//b", ".hidden", "a/../b", ""])
    def test_names_of_objects_stay_below_their_folder(self, name: str) -> None:
        with pytest.raises(ValueError, match="object_name"):
            ImportInput(collection="messages", object_name=name)

    def test_an_import_has_one_source(self) -> None:
        with pytest.raises(ValueError, match="exactly one"):
            ImportInput(collection="messages")
        with pytest.raises(ValueError, match="exactly one"):
            ImportInput(collection="messages", artifact_id=uuid4(), object_name="a.csv")
