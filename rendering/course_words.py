"""The fixed words of a printed course, language by language. To add a language, add its ``Words`` to ``_KNOWN``."""

# ruff: noqa: RUF001 - Cyrillic letters look like Latin ones and are meant

from collections.abc import Mapping
from dataclasses import dataclass, replace

from domain.generation import ContentStatus, Lesson


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Everything a printed course says that is not in the course itself."""

    language: str
    foreign: bool = False
    """Whether these words stand in for the language of the course, which we do not have."""

    skip: str
    contents: str
    objectives: str
    key_points: str
    terms: str
    sources: str
    untitled: str

    quiz: str
    question: str
    """With ``{number}``."""
    answer: str
    """With ``{letter}``."""
    show_answer: str
    answers: str
    check: str
    right: str
    wrong: str
    score: str
    """With ``{right}`` and ``{total}``."""
    no_quiz: str
    no_slides: str
    slides: str

    search: str
    found: str
    """With ``{count}``."""
    nothing_found: str
    pages: str
    previous: str
    next: str

    topic: str
    audience: str
    level: str
    levels: Mapping[str, str]

    statuses: Mapping[ContentStatus, str]
    incomplete: str
    """With ``{unfinished}`` and ``{lessons}``."""
    draft: str
    reasons: Mapping[ContentStatus, str]
    faults: str
    raw: str

    provenance: str
    totals: str
    outline: str
    lesson: str
    status: str
    model: str
    prompt: str
    prompts: str
    version: str
    tokens: str
    tokens_in: str
    tokens_out: str
    cost: str
    calls: str
    cached: str
    generated: str
    identifier: str
    yes: str
    no: str
    thousands: str

    def number(self, value: int) -> str:
        """The number with its thousands parted as the language does it."""
        return f"{value:,}".replace(",", self.thousands)

    def reason(self, lesson: Lesson) -> str:
        """Why the lesson is not finished."""
        return self.reasons[lesson.status]


_EN = Words(
    language="en",
    skip="Skip to the course",
    contents="Contents",
    objectives="Objectives",
    key_points="Key points",
    terms="Terms",
    sources="Sources",
    untitled="Untitled",
    quiz="Quiz",
    question="Question {number}",
    answer="Answer: {letter}",
    show_answer="Show the answer",
    answers="Answers",
    check="Check",
    right="Right.",
    wrong="Not right.",
    score="Right answers: {right} of {total}",
    no_quiz="No questions could be made for this lesson.",
    no_slides="No slides could be made for this lesson; these show its text.",
    slides="Slides",
    search="Search the lessons",
    found="Lessons found: {count}",
    nothing_found="Nothing found.",
    pages="Pages",
    previous="Previous",
    next="Next",
    topic="Topic",
    audience="Audience",
    level="Level",
    levels={"beginner": "Beginner", "intermediate": "Intermediate", "advanced": "Advanced"},
    statuses={
        ContentStatus.READY: "Ready",
        ContentStatus.DRAFT: "Draft",
        ContentStatus.REFUSED: "Draft (refused)",
        ContentStatus.FILTERED: "Draft (filtered)",
        ContentStatus.TRUNCATED: "Draft (cut off)",
    },
    incomplete="This course is not complete. Lessons still in draft: {unfinished} of {lessons}.",
    draft="Draft: not part of the finished course",
    reasons={
        ContentStatus.READY: "Nothing has been written for this lesson.",
        ContentStatus.DRAFT: "The answer of the model did not have the required form, and one repair did not help.",
        ContentStatus.REFUSED: "The model declined to write this lesson.",
        ContentStatus.FILTERED: "The content filter of the provider stopped this lesson.",
        ContentStatus.TRUNCATED: "The answer of the model was cut off before its end.",
    },
    faults="What is wrong with it",
    raw="The answer as it came, unchecked",
    provenance="How this course was made",
    totals="In total",
    outline="Outline",
    lesson="Lesson",
    status="Status",
    model="Model",
    prompt="Prompt",
    prompts="Prompts",
    version="Version",
    tokens="Tokens",
    tokens_in="Tokens in",
    tokens_out="Tokens out",
    cost="Cost, USD",
    calls="Calls",
    cached="From cache",
    generated="Generated",
    identifier="Course id",
    yes="yes",
    no="no",
    thousands=",",
)

_RU = Words(
    language="ru",
    skip="К содержанию курса",
    contents="Содержание",
    objectives="Цели",
    key_points="Главное",
    terms="Термины",
    sources="Источники",
    untitled="Без названия",
    quiz="Вопросы",
    question="Вопрос {number}",
    answer="Ответ: {letter}",
    show_answer="Показать ответ",
    answers="Ответы",
    check="Проверить",
    right="Верно.",
    wrong="Неверно.",
    score="Верных ответов: {right} из {total}",
    no_quiz="Для этого урока не удалось составить вопросы.",
    no_slides="Для этого урока не удалось сделать слайды; эти показывают его текст.",
    slides="Слайды",
    search="Поиск по урокам",
    found="Найдено уроков: {count}",
    nothing_found="Ничего не найдено.",
    pages="Страницы",
    previous="Назад",
    next="Далее",
    topic="Тема",
    audience="Для кого",
    level="Уровень",
    levels={"beginner": "Начальный", "intermediate": "Средний", "advanced": "Продвинутый"},
    statuses={
        ContentStatus.READY: "Готово",
        ContentStatus.DRAFT: "Черновик",
        ContentStatus.REFUSED: "Черновик (отказ)",
        ContentStatus.FILTERED: "Черновик (фильтр)",
        ContentStatus.TRUNCATED: "Черновик (обрыв)",
    },
    incomplete="Курс не завершён. Уроков в черновике: {unfinished} из {lessons}.",
    draft="Черновик: не является частью готового курса",
    reasons={
        ContentStatus.READY: "Для этого урока ничего не написано.",
        ContentStatus.DRAFT: "Ответ модели не соответствует требуемой форме, исправить его не удалось.",
        ContentStatus.REFUSED: "Модель отказалась писать этот урок.",
        ContentStatus.FILTERED: "Урок остановлен фильтром содержания поставщика.",
        ContentStatus.TRUNCATED: "Ответ модели оборвался до конца.",
    },
    faults="Что с ним не так",
    raw="Ответ модели без проверки",
    provenance="Как создан этот курс",
    totals="Всего",
    outline="План",
    lesson="Урок",
    status="Состояние",
    model="Модель",
    prompt="Промпт",
    prompts="Промпты",
    version="Версия",
    tokens="Токены",
    tokens_in="Токены на входе",
    tokens_out="Токены на выходе",
    cost="Стоимость, USD",
    calls="Вызовы",
    cached="Из кэша",
    generated="Создано",
    identifier="Номер курса",
    yes="да",
    no="нет",
    thousands="\N{NO-BREAK SPACE}",
)

_KNOWN = {words.language: words for words in (_EN, _RU)}


def words_for(language: str) -> Words:
    """The words for a BCP 47 tag by its first part; English, marked as foreign, where the language is unknown."""
    primary = language.partition("-")[0].lower()
    return _KNOWN.get(primary) or replace(_EN, foreign=True)
