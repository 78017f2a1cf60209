# ruff: noqa: RUF001
# Russian texts are written in Cyrillic.

import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import PriceUnknown, SourceEmpty
from domain.generation import (
    CompletionRequest,
    CourseOutline,
    Finish,
    LanguageModel,
    LessonContent,
    LessonOutline,
    LessonTask,
    Message,
    OutlineTask,
    Section,
    Task,
    TokenUsage,
)
from gateways.offline import OfflineLanguageModel
from gateways.offline.material import part_of, passage_of
from gateways.offline.partition import allocate, cut
from gateways.offline.phrases import defined_term
from gateways.offline.ranking import rank, vectors_of
from gateways.offline.sentences import split_sentences
from gateways.offline.wording import part_named_in
from gateways.offline.words import Lexicon
from rendering.sources import SourceText, build_corpus, decode_source

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "tests" / "data"
ENGLISH = ("queues.md", "night_sky.html", "tides.txt")
RUSSIAN = ("weather_ru.md",)
Level = Literal["beginner", "intermediate", "advanced"]


def sections_of(*names: str) -> tuple[Section, ...]:
    sources = [SourceText(name=name, text=decode_source((DATA / name).read_bytes(), name=name)) for name in names]
    return build_corpus(sources).sections


def outline_task(
    sections: tuple[Section, ...], modules: int, lessons: int, *, language: str = "en", level: Level = "beginner"
) -> OutlineTask:
    return OutlineTask(
        topic="How things work",
        audience="everybody",
        language=language,
        level=level,
        modules=modules,
        lessons_per_module=lessons,
        sections=sections,
    )


def lesson_task(sections: tuple[Section, ...], lesson: LessonOutline, *, language: str = "en") -> LessonTask:
    return LessonTask(
        topic="How things work",
        audience="everybody",
        language=language,
        level="beginner",
        course_title="A course",
        module_title="A module",
        lesson=lesson,
        sections=tuple(section for section in sections if section.id in lesson.section_ids),
    )


def request_for(task: Task, *, model: str = "extractive-1", messages: tuple[Message, ...] = ()) -> CompletionRequest:
    return CompletionRequest(
        op="op-1",
        model=model,
        messages=messages,
        task=task,
        schema_name=task.kind,
        json_schema={},
        max_output_tokens=4_000,
    )


def answer(task: Task) -> str:
    return asyncio.run(OfflineLanguageModel().complete(request=request_for(task))).text


def outline_of(task: OutlineTask) -> CourseOutline:
    return CourseOutline.model_validate_json(answer(task))


def lesson_of(task: LessonTask) -> LessonContent:
    return LessonContent.model_validate_json(answer(task))


def lessons_of(names: tuple[str, ...], modules: int, lessons: int, language: str) -> list[LessonContent]:
    sections = sections_of(*names)
    outline = outline_of(outline_task(sections, modules, lessons, language=language))
    planned = [lesson for module in outline.modules for lesson in module.lessons]
    return [lesson_of(lesson_task(sections, lesson, language=language)) for lesson in planned]


def shape(outline: CourseOutline) -> list[int]:
    return [len(module.lessons) for module in outline.modules]


def titles(outline: CourseOutline) -> list[str]:
    return [lesson.title.casefold() for module in outline.modules for lesson in module.lessons]


def plain(text: str) -> str:
    """White space normalised, and the markup of Markdown and HTML removed."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"<[^>]+>|&nbsp;", " ", text)
    return " ".join(re.sub(r"[*`|]", "", text).split())


def raw_text(*names: str) -> str:
    return plain(" ".join((DATA / name).read_text() for name in names))


def section(text: str, *, number: int = 1, heading: str = "Wind", bullets: tuple[str, ...] = ()) -> Section:
    paragraphs = tuple(text.split("\n")) if text else ()
    return Section(id=f"s{number}", source="a.md", path=(heading,), paragraphs=paragraphs, bullets=bullets)


def planned(
    title: str = "Wind", *, objectives: tuple[str, ...] = ("Know it",), ids: tuple[str, ...] = ("s1",)
) -> LessonOutline:
    return LessonOutline(title=title, objectives=objectives, section_ids=ids)


class TestComplete:
    def test_is_a_language_model(self) -> None:
        model: LanguageModel = OfflineLanguageModel()
        assert (model.name, model.default_model, model.can_look_up) == ("offline", "extractive-1", False)

    async def test_completion(self) -> None:
        """The answer says that it is whole, which model wrote it, and roughly how long question and answer were."""
        task = outline_task(sections_of("tides.txt"), 1, 2)
        messages = (Message(role="user", content="x" * 400),)
        completion = await OfflineLanguageModel().complete(request=request_for(task, messages=messages))
        assert (completion.finish, completion.refusal, completion.model) == (Finish.STOP, None, "extractive-1")
        assert completion.usage.input_tokens == 100
        assert completion.usage.output_tokens == pytest.approx(len(completion.text) / 4, abs=1)

    async def test_another_model(self) -> None:
        task = outline_task(sections_of("tides.txt"), 1, 1)
        with pytest.raises(PriceUnknown):
            await OfflineLanguageModel().complete(request=request_for(task, model="gpt-5"))

    @pytest.mark.parametrize("sections", [(), (section(""),), (section("  \n"),)])
    async def test_no_text(self, sections: tuple[Section, ...]) -> None:
        """Without a word in the sources there is nothing to make a course or a lesson from."""
        for task in (outline_task(sections, 2, 2), lesson_task(sections, planned())):
            with pytest.raises(SourceEmpty) as caught:
                await OfflineLanguageModel().complete(request=request_for(task))
            assert caught.value.code == "E.SOURCE.EMPTY"

    async def test_many_at_once(self) -> None:
        """Requests share nothing: side by side they get the answers they get alone."""
        sections = sections_of(*ENGLISH, *RUSSIAN)
        tasks = [outline_task(sections, 3, size, language=tag) for size in (1, 2, 3) for tag in ("en", "ru")]
        model = OfflineLanguageModel()
        together = await asyncio.gather(*(model.complete(request=request_for(task)) for task in tasks))
        alone = [await model.complete(request=request_for(task)) for task in tasks]
        assert [one.text for one in together] == [one.text for one in alone]

    async def test_the_loop_goes_on(self) -> None:
        """Writing runs beside the event loop, not in it."""
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        task = outline_task(sections_of(*ENGLISH), 50, 20)
        await OfflineLanguageModel().complete(request=request_for(task))
        ticking.cancel()
        assert ticks > 1


class TestDeterminism:
    def test_same_bytes_twice(self) -> None:
        sections = sections_of(*ENGLISH)
        outline = outline_task(sections, 3, 3)
        assert answer(outline) == answer(outline)
        lesson = lesson_task(sections, outline_of(outline).modules[1].lessons[1])
        assert answer(lesson) == answer(lesson)

    def test_same_bytes_in_another_process(self) -> None:
        """The order of hashed strings, which differs between processes, does not show."""
        program = (
            "import hashlib; from tests.gateways.test_offline import *;"
            "sections = sections_of(*ENGLISH, *RUSSIAN);"
            "task = outline_task(sections, 4, 5); outline = outline_of(task);"
            "texts = [answer(task)] + [answer(lesson_task(sections, one.lessons[0])) for one in outline.modules];"
            "print(hashlib.sha256(''.join(texts).encode()).hexdigest())"
        )
        digests = {
            subprocess.run(
                [sys.executable, "-c", program],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("1", "2")
        }
        assert len(digests) == 1


class TestOutline:
    @pytest.mark.parametrize(
        ("names", "modules", "lessons"),
        [
            (ENGLISH, 1, 1),
            (ENGLISH, 3, 3),
            (ENGLISH, 1, 50),
            (ENGLISH, 100, 1),
            (ENGLISH, 7, 11),
            (RUSSIAN, 3, 2),
            (RUSSIAN, 50, 20),
        ],
    )
    def test_exact_shape(self, names: tuple[str, ...], modules: int, lessons: int) -> None:
        """As many modules and lessons as asked for, every lesson with sections, every title its own."""
        sections = sections_of(*names)
        outline = outline_of(outline_task(sections, modules, lessons, language="ru" if names == RUSSIAN else "en"))
        assert shape(outline) == [lessons] * modules
        assert len(set(titles(outline))) == modules * lessons
        assert len({module.title.casefold() for module in outline.modules}) == modules
        known = {one.id for one in sections}
        assert all(set(one.section_ids) <= known and one.section_ids for m in outline.modules for one in m.lessons)

    @pytest.mark.parametrize(("modules", "lessons"), [(1, 1), (5, 4), (50, 20)])
    def test_fewer_sections_than_lessons(self, modules: int, lessons: int) -> None:
        """Two sections make any number of lessons; each lesson says which part of which section it is."""
        sections = sections_of("queues.md")[1:3]
        outline = outline_of(outline_task(sections, modules, lessons))
        assert shape(outline) == [lessons] * modules
        assert len(set(titles(outline))) == modules * lessons
        if modules > 1:
            assert part_named_in(outline.modules[0].lessons[1].objectives)

    def test_one_sentence(self) -> None:
        outline = outline_of(outline_task((section("Wind blows."),), 2, 3))
        assert shape(outline) == [3, 3]
        lesson = lesson_of(lesson_task((section("Wind blows."),), outline.modules[1].lessons[2]))
        assert lesson.summary == "Wind blows."

    def test_every_section_is_taught(self) -> None:
        sections = sections_of(*ENGLISH)
        outline = outline_of(outline_task(sections, 3, 4))
        taught = [one for module in outline.modules for lesson in module.lessons for one in lesson.section_ids]
        assert taught == [one.id for one in sections]

    def test_modules_follow_the_chapters(self) -> None:
        outline = outline_of(outline_task(sections_of("queues.md"), 3, 2))
        assert [module.title for module in outline.modules] == [
            "How a queue works",
            "When things go wrong",
            "Running a queue",
        ]
        assert [lesson.title for lesson in outline.modules[2].lessons] == ["Capacity", "Monitoring"]

    def test_modules_follow_the_sources(self) -> None:
        """Where there are as many texts as modules, a module does not mix two of them."""
        outline = outline_of(outline_task(sections_of(*ENGLISH), 3, 2))
        by_id = {one.id: one.source for one in sections_of(*ENGLISH)}
        sources = [
            {by_id[one] for lesson in module.lessons for one in lesson.section_ids} for module in outline.modules
        ]
        assert [len(one) for one in sources] == [1, 1, 1]

    def test_sentences_come_from_the_sources(self) -> None:
        outline = outline_of(outline_task(sections_of(*ENGLISH), 3, 3))
        source = raw_text(*ENGLISH)
        for text in (outline.description, *(module.summary for module in outline.modules)):
            assert all(sentence in source for sentence in split_sentences(text))

    def test_russian(self) -> None:
        outline = outline_of(outline_task(sections_of(*RUSSIAN), 3, 2, language="ru"))
        assert [module.title for module in outline.modules] == ["Датчики", "Размещение", "Данные"]
        objectives = outline.modules[2].lessons[1].objectives
        assert objectives[0] == "Объяснить своими словами тему «Проверка качества»"
        assert "Дать определение: «Калибровка»" in objectives

    def test_unknown_language(self) -> None:
        """Objectives fall back to English where there are no templates."""
        outline = outline_of(outline_task(sections_of("tides.txt"), 1, 1, language="pt-BR"))
        assert outline.modules[0].lessons[0].objectives[0].startswith("Explain in your own words")

    @pytest.mark.parametrize(("level", "verb"), [("beginner", "Explain"), ("advanced", "Analyse")])
    def test_level(self, level: Level, verb: str) -> None:
        outline = outline_of(outline_task(sections_of("tides.txt"), 1, 1, level=level))
        assert outline.modules[0].lessons[0].objectives[0].startswith(verb)

    def test_endless_headings(self) -> None:
        """Titles keep to their limit and end at the end of a word."""
        heading = "wind " * 100
        sections = tuple(section(f"Wind {n} blows.", number=n, heading=heading.strip()) for n in range(6))
        outline = outline_of(outline_task(sections, 2, 3))
        assert shape(outline) == [3, 3]
        assert all(re.fullmatch(r"wind( wind)*.*", title) for title in titles(outline))

    def test_a_thousand_lessons_from_a_megabyte(self) -> None:
        """Large courses are planned in seconds, and a lesson of the largest size is still quick."""
        sections = tuple(
            one.model_copy(update={"id": f"s{turn}-{one.id}", "path": (*one.path[:-1], f"{one.heading} {turn}")})
            for turn in range(60)
            for one in sections_of(*ENGLISH)
        )
        started = time.perf_counter()
        outline = outline_of(outline_task(sections, 50, 20))
        assert time.perf_counter() - started < 30
        assert len(set(titles(outline))) == 1_000


class TestLesson:
    @pytest.mark.parametrize(
        ("names", "modules", "lessons", "language"),
        [
            (ENGLISH, 3, 3, "en"),
            (ENGLISH, 1, 1, "en"),
            (ENGLISH, 8, 6, "en"),
            (RUSSIAN, 3, 2, "ru"),
            (RUSSIAN, 4, 5, "ru"),
        ],
    )
    def test_every_sentence_is_in_the_source(
        self, names: tuple[str, ...], modules: int, lessons: int, language: str
    ) -> None:
        """Nothing is made up: summaries, paragraphs, key points and definitions are the source's own sentences."""
        source = raw_text(*names)
        listed = {bullet for one in sections_of(*names) for bullet in one.bullets}
        for lesson in lessons_of(names, modules, lessons, language):
            texts = [lesson.summary, *lesson.key_points, *(term.definition for term in lesson.terms)]
            texts += [paragraph for block in lesson.blocks for paragraph in block.paragraphs]
            prose = [text for text in texts if text not in listed]
            assert [one for text in prose for one in split_sentences(text) if one not in source] == []
            assert {bullet for block in lesson.blocks for bullet in block.bullets} <= listed

    @pytest.mark.parametrize("names", [ENGLISH, RUSSIAN])
    def test_no_markup_is_left(self, names: tuple[str, ...]) -> None:
        for lesson in lessons_of(names, 2, 3, "ru" if names == RUSSIAN else "en"):
            assert not re.search(r"\*\*|`|\]\(|</?\w+>|\|", lesson.model_dump_json().replace('\\"', ""))

    def test_content(self) -> None:
        """A lesson on one section: its heading, its definition, its best sentences, and nothing from elsewhere."""
        sections = sections_of("queues.md")
        lesson = lesson_of(lesson_task(sections, planned("Visibility timeout", ids=("s4",))))
        assert lesson.title == "Visibility timeout"
        assert lesson.summary.startswith("The visibility timeout is the time for which a message stays hidden")
        assert lesson.blocks[0].heading == "Visibility timeout"
        assert [term.term for term in lesson.terms] == ["Visibility timeout"]
        assert 3 <= len(lesson.key_points) <= 6
        assert not set(lesson.key_points) & set(split_sentences(lesson.summary))

    def test_blocks_follow_the_sections(self) -> None:
        sections = sections_of("queues.md")
        lesson = lesson_of(lesson_task(sections, planned("All", ids=("s5", "s6", "s7"))))
        headings = [block.heading for block in lesson.blocks]
        assert [heading for heading in headings if heading in {"Retries", "Dead letters", "Idempotency"}] == [
            "Retries",
            "Dead letters",
            "Idempotency",
        ]

    def test_a_list_keeps_its_introduction(self) -> None:
        """The line before a list stands right before it; a line before a code block is left out."""
        sections = sections_of("queues.md")
        (block,) = [
            block
            for block in lesson_of(lesson_task(sections, planned("Dead letters", ids=("s6",)))).blocks
            if block.bullets
        ]
        assert block.paragraphs[-1].endswith("check these points:")
        alone = section("Wind blows over the hills all day.\nRun this command:")
        lesson = lesson_of(lesson_task((alone,), planned()))
        assert lesson.blocks[0].paragraphs == ("Wind blows over the hills all day.",)

    def test_only_a_list(self) -> None:
        """A section without running text still makes a lesson."""
        bullets = tuple(f"Wind number {n} blows over hill number {n}" for n in range(20))
        lesson = lesson_of(lesson_task((section("", bullets=bullets),), planned()))
        assert lesson.summary in bullets
        assert set(lesson.blocks[0].bullets) < set(bullets)

    def test_long_sources_are_shortened(self) -> None:
        """A lesson is made for reading: of many pages the best sentences are kept, in their order."""
        sections = sections_of(*ENGLISH, *RUSSIAN)
        lesson = lesson_of(lesson_task(sections, planned("All", ids=tuple(one.id for one in sections))))
        text = [paragraph for block in lesson.blocks for paragraph in block.paragraphs]
        assert 3 <= len(lesson.blocks) <= 8
        assert 500 < sum(len(paragraph.split()) for paragraph in text) < 1_500
        assert all(len(split_sentences(paragraph)) <= 7 for paragraph in text)

    def test_parts_cover_the_section(self) -> None:
        """Lessons that share a section divide it between them."""
        (whole,) = sections_of("queues.md")[2:3]
        outline = outline_of(outline_task((whole,), 1, 2))
        lessons = [lesson_of(lesson_task((whole,), lesson)) for lesson in outline.modules[0].lessons]
        texts = [" ".join(text for block in lesson.blocks for text in block.paragraphs) for lesson in lessons]
        assert texts == list(whole.paragraphs)

    def test_endless_sentence(self) -> None:
        """Limits hold also for text without a full stop, and what is shown is still the source's own words."""
        text = "wind " * 5_000
        lesson = lesson_of(lesson_task((section(text.strip()),), planned()))
        assert all(len(point) <= 1_000 for point in lesson.key_points)

    def test_most_sections(self) -> None:
        many = tuple(section(f"Wind {n} blows. It never stops here.", number=n, heading=f"W{n}") for n in range(60))
        lesson = lesson_of(lesson_task(many, planned(ids=tuple(one.id for one in many))))
        assert len(lesson.blocks) == 8

    @pytest.mark.parametrize("text", ["Go.\n" * 2_000, "Wind, part 1\n" * 50, "?!\n...", "a: b:\nc:"])
    def test_strange_paragraphs(self, text: str) -> None:
        """Hundreds of tiny paragraphs, or hardly a sentence at all, still make a valid lesson."""
        one = section(text.strip(), heading="Wind, part 1")
        outline = outline_of(outline_task((one,), 1, 1))
        assert lesson_of(lesson_task((one,), outline.modules[0].lessons[0])).blocks

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.tuples(st.text("aбB. :?—(1", max_size=120), st.lists(st.text("ab :.", max_size=9))), max_size=7),
        st.integers(1, 4),
        st.integers(1, 5),
    )
    def test_any_sections(self, texts: list[tuple[str, list[str]]], modules: int, lessons: int) -> None:
        """Whatever the sections hold, the answers fit their schema, or the sources are said to be empty."""
        sections = tuple(
            section(text, number=number, heading=f"H {number % 3}", bullets=tuple(bullets))
            for number, (text, bullets) in enumerate(texts)
        )
        try:
            outline = outline_of(outline_task(sections, modules, lessons))
        except SourceEmpty:
            assert not any(text.strip() or any(map(str.strip, bullets)) for text, bullets in texts)
            return
        assert shape(outline) == [lessons] * modules
        assert len(set(titles(outline))) == modules * lessons
        for module in outline.modules:
            assert lesson_of(lesson_task(sections, module.lessons[-1])).key_points


class TestFindCompletion:
    async def test_nothing_is_kept(self) -> None:
        assert await OfflineLanguageModel().find_completion(op="op-1", model="extractive-1") is None


class TestPrice:
    def test_free(self) -> None:
        usage = TokenUsage(input_tokens=10**9, output_tokens=10**9)
        assert OfflineLanguageModel().price("extractive-1").of(usage) == 0

    def test_unknown_model(self) -> None:
        with pytest.raises(PriceUnknown):
            OfflineLanguageModel().price("gpt-5")


class TestSplitSentences:
    @pytest.mark.parametrize(
        "sentence",
        [
            "The loop lives in worker.py and takes 3.5 seconds, e.g. on version 2.1.4 of the client.",
            "See Fig. 3, p. 14 and No. 7 for details.",
            "Dr. Lane and Prof. A. B. Smith met at 9 a.m. on the quay.",
            "Visit https://example.com/a.html?q=1.2 or www.example.org for more.",
            "It works, i.e. it does not fail.",
            "Bring water, bread, etc. and a map.",
            "Датчик точен, т. е. точнее других, и дёшев (см. рис. 3).",
            "Купите хлеб, воду и т.д. в лавке на ул. Мира.",
            "Писатель А. С. Пушкин родился в 1799 г. в Москве.",
            "Версия 2.0 стоит 5 тыс. руб. за штуку.",
            "«Как?» — спросил он.",
            '"Really?" she asked.',
            "He waited... and waited.",
            "The aside (it is short. It ends here.) belongs to the sentence.",
            "1. Find the pole star.",
        ],
    )
    def test_one_sentence(self, sentence: str) -> None:
        assert split_sentences(sentence) == [sentence]

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("It rains.", "The wind blows."),
            ("It cost 5 dollars in 2021.", "Then it fell."),
            ("Does it rain?", "Yes!"),
            ("It rains!", "Stay at home."),
            ("He said “no.”", "She left."),
            ("All orders live in one file.", "worker.py reads it."),
            ("Bring bread, water etc.", "Then leave."),
            ("Это было в 2021 г.", "Станция работала."),
            ("Купите хлеб и т. д.", "Затем идите."),
            ("Он жил до н. э.", "Потом умер."),
            ("Идёт дождь…", "Ветер стих."),
            ("Длина равна 10 см.", "Ширина меньше."),
            ("Это помогает им.", "Система растёт."),
            ("She studies modern art.", "He does not."),
            ("下雨了。", "风停了。"),
        ],
    )
    def test_two_sentences(self, first: str, second: str) -> None:
        assert split_sentences(f"{first} {second}") == [first, second]

    @settings(deadline=None)
    @given(st.text(alphabet="абвАБВ abcABC.!?…()«»\"'0123—-/_т.е.г.", max_size=200))
    def test_nothing_is_lost(self, text: str) -> None:
        """Put together again, the sentences are the text, but for white space."""
        sentences = split_sentences(text)
        assert "".join("".join(sentences).split()) == "".join(text.split())
        assert all(sentence == sentence.strip() and sentence for sentence in sentences)

    @settings(deadline=None)
    @given(st.text(max_size=200))
    def test_never_fails(self, text: str) -> None:
        assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


class TestDefinedTerm:
    @pytest.mark.parametrize(
        ("sentence", "term"),
        [
            ("A worker is a process that takes messages.", "Worker"),
            ("The visibility timeout is the time for which a message is hidden.", "Visibility timeout"),
            ("Точка росы — это температура, при которой выпадает роса.", "Точка росы"),
            ("Барометр является прибором для измерения давления.", "Барометр"),
            ("worker.py is a file with the loop in it.", "worker.py"),
        ],
    )
    def test_definition(self, sentence: str, term: str) -> None:
        assert defined_term(sentence, listed=False, lexicon=Lexicon("en")) == (term, True)

    @pytest.mark.parametrize(
        "sentence",
        [
            "This is a problem.",
            "It is the end.",
            "There is a way out.",
            "The disk is full.",
            "Это — это всё.",
            "What matters is the age of the oldest message.",
        ],
    )
    def test_no_definition(self, sentence: str) -> None:
        found = defined_term(sentence, listed=False, lexicon=Lexicon("en"))
        assert found is None or not found[1]


class TestRank:
    def test_the_middle_of_the_web_comes_first(self) -> None:
        """The sentence that shares words with all others is the most central."""
        scores = rank(vectors_of([["wind"], ["wind", "rain"], ["rain"], ["snow"]]))
        assert max(range(4), key=lambda at: scores[at]) == 1
        assert min(range(4), key=lambda at: scores[at]) == 3

    @settings(deadline=None)
    @given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), max_size=12))
    def test_scores_are_shares_of_the_best(self, bags: list[list[str]]) -> None:
        scores = rank(vectors_of(bags))
        assert len(scores) == len(bags)
        assert all(0 <= score <= 1 for score in scores)
        assert not bags or max(scores) == 1


class TestPartition:
    @settings(deadline=None)
    @given(st.lists(st.integers(1, 6_000), min_size=1, max_size=80), st.data())
    def test_cut(self, weights: list[int], data: st.DataObject) -> None:
        """The spans follow one another from the first member to the last, none of them empty."""
        parts = data.draw(st.integers(1, len(weights)))
        spans = cut([float(one) for one in weights], [0.5] * len(weights), parts, wanted=data.draw(st.integers(1, 5)))
        assert [member for first, last in spans for member in range(first, last)] == list(range(len(weights)))
        assert len(spans) == parts
        assert all(first < last for first, last in spans)

    @settings(deadline=None)
    @given(st.lists(st.integers(1, 6_000), min_size=1, max_size=40), st.integers(0, 1_000))
    def test_allocate(self, weights: list[int], more: int) -> None:
        """All places are given out, and nobody goes without."""
        given_out = allocate([float(one) for one in weights], len(weights) + more)
        assert sum(given_out) == len(weights) + more
        assert min(given_out) >= 1

    @settings(deadline=None)
    @given(st.integers(1, 30), st.integers(1, 60))
    def test_parts_of_a_passage(self, sentences: int, parts: int) -> None:
        """Every sentence is in some part, and no part is empty."""
        passage = passage_of(section("\n".join(f"Wind {n} blows. Rain {n} falls." for n in range(sentences))))
        divided = [part_of(passage, part, parts) for part in range(1, parts + 1)]
        assert all(one.sentences for one in divided)
        assert {one.text for part in divided for one in part.sentences} == {one.text for one in passage.sentences}
