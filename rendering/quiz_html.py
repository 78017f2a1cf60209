"""The quiz of a lesson as HTML: each answer folded away until somebody asks, with a script or without one."""

import json

from domain.generation import Lesson, Quiz, QuizQuestion
from rendering.course_parts import lacks_quiz, letter_of, one_line, quiz_of
from rendering.course_words import Words
from rendering.html_pieces import fixed, prose, template
from rendering.markup import NOTHING, Html, element, joined, text


def quiz_section(lesson: Lesson, place: tuple[int, int], words: Words, *, level: int) -> Html:
    """The questions on the lesson at ``place`` under a heading of that level; nothing where none were asked for."""
    if lacks_quiz(lesson):
        return element("p", fixed(words.no_quiz, words), class_="no-quiz")
    quiz = quiz_of(lesson)
    if quiz is None:
        return NOTHING
    name = f"quiz-{place[0]}-{place[1]}"
    heading = element(f"h{level}", fixed(words.quiz, words), id=name)
    questions = (
        _question(question, f"{name}-{number}", words) for number, question in enumerate(quiz.questions, start=1)
    )
    return element(
        "section", heading, element("ol", *questions, class_="questions"), class_="quiz", aria_labelledby=name
    )


def quiz_css() -> str:
    """The style sheet to add to pages with questions."""
    return template("quiz.css")


def quiz_script() -> str:
    """The script that lets a reader choose and check; without it the answers unfold."""
    return template("quiz.js")


def quiz_data(quiz: Quiz, words: Words) -> str:
    """What the script has to know, as JSON in which no ``<`` stands."""
    data = {
        "answers": [question.answer for question in quiz.questions],
        "check": words.check,
        "right": words.right,
        "wrong": words.wrong,
        "score": words.score,
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _question(question: QuizQuestion, name: str, words: Words) -> Html:
    asked = element("p", text(one_line(question.question)), id=name)
    options = (element("li", text(one_line(option))) for option in question.options)
    right = f"{letter_of(question.answer)}. {one_line(question.options[question.answer])}"
    answer = element("p", fixed(words.answer.format(letter=""), words), element("strong", text(right)))
    folded = element(
        "details", element("summary", fixed(words.show_answer, words)), joined([answer, prose(question.explanation)])
    )
    return element("li", asked, element("ol", *options, class_="options"), folded)
