"""Key phrases and the sentences that define them."""

# ruff: noqa: RUF001
# Russian patterns are written in Cyrillic.

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Final

from gateways.offline.material import Passage
from gateways.offline.words import WORD, Lexicon, word_set

Key = tuple[str, ...]
"""The stems of a phrase: what its inflected forms have in common."""

_LONGEST: Final = 3
_TOKEN: Final = re.compile(f"{WORD.pattern}|[^\\w\\s]")
_CYRILLIC: Final = re.compile("[а-яё]", re.IGNORECASE)
_INTRODUCERS: Final = word_set("""
    a an the its their his her our your each every no any this these those one two several many
    of with from by per between
""")
_TWICE, _OFTEN = 2, 3
_SUBJECTS: Final = 5
_SHORTEST_WORD: Final = 3
_LONGEST_WORD: Final = 40
# Single words of these kinds are seldom the name of anything.
_NOT_A_NAME: Final = re.compile(
    r".{2,}(?:ly|able|ible|ful|ous|ed|ing|ally|"
    r"ый|ий|ой|ая|яя|ое|ее|ые|ого|его|ому|ему|ых|их|ыми|ими|ую|юю|"
    r"ать|ить|ться|ется|ится|ются|ятся|ает|яет|ует|ают|яют|уют|айте|ейте|ите|ал|ала|али|ила|или|илось|лся|"
    r"но|ен|ена|ены|имо|емо|ом|ем|ами|ями|ах|ях|у|ю)$"
)
# Endings of a Russian verb or accusative at the head of a phrase: no name.
_VERB: Final = re.compile(
    r".{2,}(?:айте|яйте|ейте|ойте|уйте|ьте|ите|ться|ется|ится|ются|ятся|ает|яет|ует|ают|яют|уют|ать|ить|у|ю)$"
)
_SURE: Final = tuple(
    re.compile(pattern)
    for pattern in (
        (
            r"^(?:An?\s+|The\s+)?(?P<term>(?:[^,.;:!?()—]|\.(?=\w)){2,60}?)(?:\s+\([^)]{1,40}\))?\s+"
            r"(?:is|are)\s+(?:an?|the\s+\w+\s+(?:of|that|which|in|by|for|to)|one\s+of|any|every|what|how)\b"
        ),
        r"^(?:An?\s+|The\s+)?(?P<term>(?:[^,.;:!?()—]|\.(?=\w)){2,60}?)\s+(?:refers\s+to|stands\s+for|denotes|consists\s+of)\s",
        r"^(?P<term>(?:[^,.;:!?()—]|\.(?=\w)){2,60}?)(?:\s+\([^)]{1,40}\))?\s+—\s+это\s",
        r"^(?P<term>(?:[^,.;:!?()—]|\.(?=\w)){2,60}?)(?:\s+\([^)]{1,40}\))?\s+(?:является|представляет\s+собой)\s",
    )
)
_DASHED: Final = re.compile(r"^(?P<term>[^,.;:!?()—]{2,40}?)(?:\s+—\s+(?!не\b|not\b)|\s+(?:means|означает)\s+)\w.{20,}")
_LISTED: Final = re.compile(r"^(?P<term>[^,.;:!?()—]{3,40}?)(?:\s+[—–-]\s+|:\s+)(?P<rest>[^\W\d_][^:]{20,})$")
_MAX_TERM_WORDS: Final = 4
_CODED: Final = re.compile(r"[\d_/.]")


@dataclass(frozen=True)
class _Word:
    text: str
    stem: str
    opens: bool
    """Whether it begins its sentence or heading."""
    introduced: bool
    """Whether an article or a preposition before its stretch of words announces a noun."""


class PhraseBook:
    """Counts the phrases of texts and remembers how each was written."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._forms: defaultdict[Key, Counter[str]] = defaultdict(Counter)
        self._named: set[Key] = set()
        self._counts: dict[tuple[str, int, int], Counter[Key]] = {}

    def count_passage(self, passage: Passage) -> Counter[Key]:
        """How often each phrase of up to three words occurs in the heading and the text, lists only for want of it."""
        place = (passage.section.id, passage.sentences[0].place, len(passage.sentences))
        if place not in self._counts:
            self._counts[place] = self._count(passage)
        return self._counts[place]

    def subjects(
        self, passages: Sequence[Passage], *, background: Mapping[Key, int], beside: str, loose: bool = False
    ) -> Iterator[str]:
        """What the passages are about, in words other than those of ``beside``: terms they define, then phrases.

        Where a name is needed at any price, ``loose`` adds the phrases they share with the rest of the text.
        """
        known = set(self._lexicon.stems(beside))
        for sentence in (one for passage in passages for one in passage.prose):
            found = defined_term(sentence.text, listed=False, lexicon=self._lexicon)
            if found and found[1] and not known & set(self._lexicon.stems(found[0])):
                yield found[0]
        counts: Counter[Key] = Counter()
        for passage in passages:
            counts.update(self.count_passage(passage))
        # A single word says little, unless it is this passage that speaks of it.
        often = {
            key: count
            for key, count in counts.items()
            if len(key) > 1 or (count >= (_TWICE if loose else _OFTEN) and count * 2 > background.get(key, 0))
        }
        phrases = self.top(often, _SUBJECTS, background=background)
        if loose:
            phrases += self.top({key: background.get(key, 0) for key in counts}, _SUBJECTS)
        for phrase in phrases:
            if not known & set(self._lexicon.stems(phrase)):
                yield capitalised(phrase)

    def form(self, key: Key) -> str:
        """The commonest way the phrase was written."""
        forms = self._forms[key]
        return max(forms, key=lambda form: (forms[form], -len(form), form), default=" ".join(key))

    def top(self, counts: Mapping[Key, int], limit: int, *, background: Mapping[Key, int] | None = None) -> list[str]:
        """The key phrases among ``counts``, best first; with a background, those typical of this text alone."""
        chosen: list[Key] = []
        for key in self._ranked(counts, background or counts):
            if len(chosen) == limit:
                break
            if not any(set(key) & set(other) for other in chosen):
                chosen.append(key)
        return [self.form(key) for key in chosen]

    def _count(self, passage: Passage) -> Counter[Key]:
        counts: Counter[Key] = Counter()
        for text in (*passage.section.path[-1:], *(one.text for one in passage.prose or passage.sentences)):
            for run in self._runs(text):
                for phrase in _stretches(run):
                    key = tuple(word.stem for word in phrase)
                    counts[key] += 1
                    self._note(key, phrase, closes=phrase[-1] is run[-1])
        return counts

    def _ranked(self, counts: Mapping[Key, int], background: Mapping[Key, int]) -> list[Key]:
        inside: Counter[Key] = Counter()
        for key, count in counts.items():
            for part in dict.fromkeys(_parts(key)):
                inside[part] = max(inside[part], count)
        scored = {
            # A phrase that hardly occurs but inside a longer one is a fragment of it (C-value).
            key: log2(len(key) + 1) * (count - 0.7 * inside[key]) * (count / max(background.get(key, 0), count)) ** 0.5
            for key, count in counts.items()
            if count > 1 and self._is_name(key)
        }
        return sorted(scored, key=lambda key: (-scored[key], -len(key), key))

    def _is_name(self, key: Key) -> bool:
        form = self.form(key)
        if _CYRILLIC.search(form):
            # The nominative cannot be told from the word; seen where a sentence or heading begins, it is likely.
            return key in self._named and not _VERB.search(form.partition(" ")[0]) and _good_alone(form)
        return key in self._named and _good_alone(form)

    def _runs(self, text: str) -> Iterator[list[_Word]]:
        """The stretches of meaningful words between stop words and punctuation."""
        run: list[_Word] = []
        before = ""
        for at, token in enumerate(_TOKEN.findall(text)):
            stem = self._lexicon.stem(token) if token[0].isalnum() and len(token) <= _LONGEST_WORD else ""
            if stem:
                introduced = run[-1].introduced if run else before in _INTRODUCERS
                run.append(_Word(token, stem, opens=at == 0, introduced=introduced))
            elif run:
                yield run
                run = []
            before = token.lower()
        if run:
            yield run

    def _note(self, key: Key, phrase: Sequence[_Word], *, closes: bool) -> None:
        words = [word.text for word in phrase]
        russian = _CYRILLIC.search(words[0]) is not None
        announced = closes and (phrase[0].introduced or not self._lexicon.english)
        if phrase[0].opens if russian else announced:
            self._named.add(key)
        if phrase[0].opens and russian:
            words[0] = uncapitalised(words[0])
        # A Russian form met where the nominative is likely is worth more than any number of others.
        weight = 100 if phrase[0].opens and russian else 1 + 10 * announced + (not phrase[0].opens)
        self._forms[key][" ".join(words)] += weight


def defined_term(text: str, *, listed: bool, lexicon: Lexicon) -> tuple[str, bool] | None:
    """The term that a sentence or list item defines, and whether beyond doubt."""
    for pattern in _SURE:
        if (found := pattern.match(text)) and _is_term(found["term"], lexicon):
            return capitalised(found["term"]), True
    loose = (_LISTED if listed else _DASHED).match(text)
    if loose and _is_term(loose["term"], lexicon) and not _CODED.search(loose["term"]):
        return capitalised(loose["term"]), False
    return None


def capitalised(text: str) -> str:
    """With a capital first letter, names of files and functions excepted."""
    return text if _CODED.search(text.partition(" ")[0]) else text[:1].upper() + text[1:]


def _is_term(term: str, lexicon: Lexicon) -> bool:
    words = term.split()
    if not words or len(words) > _MAX_TERM_WORDS or not lexicon.stems(words[0]) or not lexicon.stems(words[-1]):
        return False
    return sum(not lexicon.stems(word) for word in words) <= 1 and len(term) >= _SHORTEST_WORD


def uncapitalised(text: str) -> str:
    """With a small first letter, abbreviations excepted."""
    return text[0].lower() + text[1:] if text[1:].islower() else text


def _stretches(run: Sequence[_Word]) -> Iterator[Sequence[_Word]]:
    for start in range(len(run)):
        for end in range(start + 1, min(start + _LONGEST, len(run)) + 1):
            yield run[start:end]


def _parts(key: Key) -> Iterator[Key]:
    for size in range(1, len(key)):
        for start in range(len(key) - size + 1):
            yield key[start : start + size]


def _good_alone(form: str) -> bool:
    if " " in form:
        return True
    return form.isupper() or (len(form) > _SHORTEST_WORD and not _NOT_A_NAME.match(form) and not _CODED.search(form))
