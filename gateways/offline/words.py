"""Words: which of them carry meaning, and what they have in common with their inflected kin."""

# ruff: noqa: RUF001
# Russian stop words are written in Cyrillic.

import re
from typing import Any, Final

import snowballstemmer  # type: ignore[import-untyped]

WORD: Final = re.compile(r"[^\W_](?:\w|[-'’.+](?=\w))*")


def word_set(text: str) -> frozenset[str]:
    """The words of a list that is written as running text."""
    return frozenset(text.split())


_ENGLISH: Final = word_set("""
a about above across after afterwards again against all almost along already also although always am among an and
another any anyone anything are aren't around as at away back be became because become becomes been before behind being
below between beyond both but by can can't cannot come comes could did do does doesn't doing don't done down during
each either else enough even ever every everyone everything few first for from further gave get gets getting give given
gives go goes going gone got had has have having he hence her here hers herself him himself his how however i if in
indeed instead into is isn't it it's its itself just keep keeps kept know known knows last later least less let lets
like likely look looks made make makes making many may maybe me mean means might mine more most much must my myself
near need needed needs neither never next no nobody none nor not nothing now of off often on once one ones only onto
or other others otherwise our ours ourselves out over own per perhaps put puts quite rather really said same say says
second see seem seems seen several shall she should show shows since so some someone something sometimes soon still
such take taken takes than that that's the their theirs them themselves then there therefore these they thing things
third this those though three through thus till to together too toward towards try turn turns two under unless until
up upon us use used uses using usually very via want wants was way ways we well went were what whatever when whenever
where whereas wherever whether which while who whoever whole whom whose why will with within without won't would yes
yet you your yours yourself e.g i.e etc vs able good better best new old long short big small different certain
simply actually especially particular particularly example examples case cases lot kind sort part parts number
""")
_RUSSIAN: Final = word_set("""
а без более больше будем будет будете будешь буду будут будучи бы был была были было быть в вам вами вас весь вид во
вовсе вообще вот впрочем время все всегда всего всей всем всеми всему всех всё всю вся всякий вы где да даже два две
двух для до должен должна должно должны достаточно другая другие других другого другое другой его ее ей ему если есть
еще ещё ею её же за зато зачем здесь и из или им именно иметь имеет имеют ими иначе иногда их к каждая каждого каждое
каждой каждую каждый каждым как какая какие каких какого какое какой какую кем ко когда кого кому конечно которая
которого которое которой котором которому которую которые который которым которыми которых кроме кто куда ли либо лишь
лучше люди между меня мне много многие могут может можно мой моя мы на над надо назад наиболее например нам нами нас
наш наша наше наши не него нее ней некоторые некоторых нельзя нем нему несколько нет нею неё ни нибудь никогда никто
ним ними них ничего но ну нужен нужна нужно нужны о об оба обе обычно один одна однако одни одним одно одного одной
одну около он она они оно оный опять особенно от откуда отсюда очень перед по под пока после потом потому почему почти
поэтому при просто против прямо раз разве ради раньше с сам сама сами само самый самая самое самые свое своего своей
своем своему свои своим своими своих свой свою своя себе себя сегодня сейчас сколько снова со собой совсем собственно
сразу среди стал стала стали стало так также такая такие таких такого такое такой таком тем там те тебе тебя тем теми
теперь тех то тогда того тоже той только том тому тот три трёх тут ты у уже хорошо хоть хотя чаще часто чего чей чем
чему через что чтобы чье чья эта эти этим этими этих это этого этой этом этому этот эту я является являются называют
называется называются затем вместо всё-таки те же т.е т.д т.п т.к др пр значит начала конец часть случае случай образом
причем причём пусть раза сначала делает делать делают сделать ещё бывает стоит лишь вдруг сюда туда
""")
_STOP: Final = _ENGLISH | _RUSSIAN
_ALGORITHMS: Final = {
    "da": "danish",
    "de": "german",
    "es": "spanish",
    "fi": "finnish",
    "fr": "french",
    "hu": "hungarian",
    "it": "italian",
    "nb": "norwegian",
    "nl": "dutch",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "sv": "swedish",
    "tr": "turkish",
}
_FUNCTION_WORD_CHARS: Final = 3
_CYRILLIC: Final = re.compile("[а-яёА-ЯЁ]")


def primary(language: str) -> str:
    """The first part of a BCP 47 tag."""
    return language.partition("-")[0].lower()


class Lexicon:
    """Stems words. Holds the state of its stemmers: one for each request, never shared between threads."""

    def __init__(self, language: str) -> None:
        base = primary(language)
        # Russian and English texts mix freely, so the script of the word decides; the tag decides among Latin ones.
        self._latin: Any = snowballstemmer.stemmer(_ALGORITHMS.get(base, "english"))
        self._cyrillic: Any = snowballstemmer.stemmer("russian")
        # Without a list of stop words for a language the shortest words stand in for one.
        self._shortest = 1 if base in {"en", "ru"} else _FUNCTION_WORD_CHARS
        self.english = base == "en"
        """Whether English articles can be relied on to announce nouns."""
        self._stems: dict[str, str] = {}

    def stem(self, word: str) -> str:
        """What ``word`` shares with its inflected forms; empty for a word without meaning of its own."""
        known = self._stems.get(word)
        if known is None:
            known = self._stems[word] = self._find_stem(word.lower())
        return known

    def stems(self, text: str) -> tuple[str, ...]:
        """The stems of all meaningful words, in order."""
        found = (self.stem(word) for word in WORD.findall(text))
        return tuple(stem for stem in found if stem)

    def _find_stem(self, word: str) -> str:
        word = word.replace("’", "'").removesuffix("'s")
        if word in _STOP or len(word) <= self._shortest or not any(char.isalpha() for char in word):
            return ""
        stemmer = self._cyrillic if _CYRILLIC.search(word) else self._latin
        return str(stemmer.stemWord(word))
