"""Which sentences of a text to show: central ones that can stand alone."""

# ruff: noqa: RUF001
# Russian words are written in Cyrillic.

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from gateways.offline.material import Passage, Sentence
from gateways.offline.ranking import Vector, rank, similarity, vectors_of
from gateways.offline.words import Lexicon

MAX_RANKED: Final = 400
_ALIKE: Final = 0.5
_LEANS: Final = re.compile(
    r"[\"'«“(]*(?:this|that|these|those|it|they|he|she|its|their|his|her|such|but|and|so|or|yet|however|therefore|thus|"
    r"then|otherwise|also|both|neither|hence|instead|here|there|nor|moreover|furthermore|similarly|consequently|"
    r"likewise|the same|see|the former|the latter|in this|for this|for example|as a result|because of this|"
    r"см|это|этот|эта|эти|этого|этому|этим|при этом|он|она|оно|они|его|её|ее|их|им|ему|ей|такой|такая|такое|такие|"
    r"так|поэтому|однако|но|а|и|затем|тогда|также|иначе|кроме того|тем не менее|оба|обе|там|здесь|тут|то есть|"
    r"например|зато|потом|тот|та|те|поскольку|отсюда|после этого|для этого|в этом|в таком|из этого|к тому же|"
    r"наоборот|напротив)\b",
    re.IGNORECASE,
)
# Ends on a word that stands for something said before.
_TRAILS: Final = re.compile(r"\b(?:is|are|was|were|does|do|did|not|one|too|so)[.!?]$|\b(?:нет|тоже|также)[.!?]$")
_LEAD: Final = 1.5
_SHORT, _BRIEF, _LONG, _ENDLESS = 5, 8, 40, 70
# A token of running prose: letters only, with the punctuation around it.
_PLAIN: Final = re.compile(r"[\"'«“(]*[^\W\d_]+(?:[-'’/][^\W\d_]+)*[\"'»”),.;:!?…]*")
_MOSTLY_PROSE, _HALF_PROSE = 0.8, 0.6


@dataclass(frozen=True)
class Ranked:
    """A sentence with its passage, its vector and its worth."""

    sentence: Sentence
    passage: int
    vector: Vector
    score: float

    @property
    def position(self) -> tuple[int, int]:
        """Where it stands in reading order."""
        return self.passage, self.sentence.place

    @property
    def text(self) -> str:
        """The sentence itself."""
        return self.sentence.text


def rank_sentences(passages: Sequence[Passage], lexicon: Lexicon, focus: Collection[str] = ()) -> list[Ranked]:
    """Weigh up to MAX_RANKED sentences, spread evenly over the passages. ``focus`` holds the stems asked for."""
    room = max(MAX_RANKED // max(len(passages), 1), 1)
    stride = -(-len(passages) // MAX_RANKED) or 1
    found = [
        (number, sentence)
        for number in range(0, len(passages), stride)
        for sentence in passages[number].sentences[:room]
    ]
    vectors = vectors_of([lexicon.stems(sentence.text) for _, sentence in found])
    scores = rank(vectors)
    return [
        Ranked(sentence, number, vector, score * standing(sentence) * _fit(vector, focus))
        for (number, sentence), vector, score in zip(found, vectors, scores, strict=True)
    ]


def best(ranked: Sequence[Ranked], limit: int, *, unlike: Sequence[Ranked] = ()) -> list[Ranked]:
    """The best sentences in reading order, none of them nearly the same as another or as those in ``unlike``."""
    chosen: list[Ranked] = []
    for candidate in sorted(ranked, key=lambda one: (-one.score, one.position)):
        if len(chosen) == limit:
            break
        if all(similarity(candidate.vector, other.vector) < _ALIKE for other in (*chosen, *unlike)):
            chosen.append(candidate)
    return sorted(chosen, key=lambda one: one.position)


def summary_of(ranked: Sequence[Ranked], *, room: int = 420) -> list[Ranked]:
    """One sentence, or two where both fit into ``room`` characters."""
    prose = [one for one in ranked if not one.sentence.bullet and not one.text.endswith((":", "?"))]
    pair = best(prose or ranked, 2)
    if len(pair) > 1 and prose and sum(len(one.text) for one in pair) <= room:
        return pair
    return sorted(pair, key=lambda one: -one.score)[:1] or list(ranked[:1])


def leans(text: str) -> bool:
    """Whether the sentence leans on the one before it."""
    return _LEANS.match(text) is not None


def standing(sentence: Sentence) -> float:
    """What a sentence is worth by its looks: its length, its place, and whether it makes sense alone."""
    text = sentence.text
    worth = _length_worth(len(text.split()))
    if text.endswith((":", "?")):
        worth *= 0.25
    if leans(text) or _TRAILS.search(text):
        worth *= 0.5
    worth *= _prose_worth(text)
    if sentence.bullet:
        return worth * 0.5
    return worth * (_LEAD if sentence.place == 0 else 1.0)


def _length_worth(words: int) -> float:
    if words < _SHORT or words > _ENDLESS:
        return 0.25
    if words < _BRIEF or words > _LONG:
        return 0.7
    return 1.0


def _prose_worth(text: str) -> float:
    """Little for a line of commands, addresses or figures: it reads badly on its own."""
    tokens = [token for token in text.split() if token not in {"—", "–", "-"}]
    share = sum(_PLAIN.fullmatch(token) is not None for token in tokens) / max(len(tokens), 1)
    if share >= _MOSTLY_PROSE:
        return 1.0
    return 0.5 if share >= _HALF_PROSE else 0.15


def _fit(vector: Vector, focus: Collection[str]) -> float:
    return 1.0 + min(0.15 * sum(stem in vector for stem in focus), 0.45)
