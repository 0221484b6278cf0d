"""Queries that say nothing about a picture: lone letters, and words that stand in nearly every text."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from pipeline.matching.characters import words
from query_list.config import EmptyQueriesConfig

__all__ = ["FUNCTION_WORDS", "Judge"]

FUNCTION_WORDS: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "en": frozenset(
        """a about above according across after again against all almost alone along already also although always am
        among an and another any anyone anything are around as at away back be became because become been before being
        below best better between both but by came can cannot come could did do does done down during each either else
        enough etc even ever every far few first for former from further get give given go goes got had has have having
        he hence her here hers herself him himself his how however i if in indeed instead into is it its itself just
        keep kept known last later latter least less let like likely made mainly make many may me might mine more
        moreover most mostly much must my myself near nearly neither never nevertheless next no nobody none nor not
        nothing now of off often on once one only onto or other others otherwise our ours ourselves out over own part
        parts per perhaps quite rather really said same say see seem seen several shall she should since so some someone
        something sometimes soon still such take taken than that the their theirs them themselves then there thereby
        therefore these they thing things this those though through throughout thus to together too toward towards under
        until up upon us use used uses using usually various very via was way we well went were what whatever when where
        whereas whether which while who whole whom whose why will with within without would yes yet you your yours
        yourself""".split()  # noqa: SIM905  # easier to read so
    ),
    "de": frozenset(
        """ab aber alle allem allen aller alles als also am an andere anderen auch auf aus außer bei beide beim
        bereits bis bzw da dabei dadurch dafür damit danach dann daran darauf daraus darin das dass davon dazu dem
        den denen denn der deren des dessen die dies diese diesem diesen dieser dieses doch dort du durch ein eine
        einem einen einer eines einige er es etwa etwas euch euer für gab ganz gegen gibt hat hatte hatten her hier
        hin hinter ich ihm ihn ihnen ihr ihre ihrem ihren ihrer ihres im immer in ins ist ja jede jedem jeden jeder
        jedes jedoch jetzt kann kein keine keinen können konnte konnten machen man mehr mehrere mein meist mit muss
        nach nachdem neben nein nicht nichts noch nun nur ob oder oft ohne schon sehr sein seine seinem seinen
        seiner seines seit seitdem selbst sich sie sind so sogar sollte somit sondern sonst sowie sowohl über um und
        uns unser unter viel viele vielen vom von vor während war waren warum was weil weiter weitere weiteren
        welche welcher wenn wer werden wie wieder will wir wird wo wurde wurden zu zum zur zwar zwischen""".split()  # noqa: SIM905  # easier to read so
    ),
}
"""Closed classes of words: articles, pronouns, prepositions, conjunctions, auxiliaries, and adverbs and quantities
that no picture shows. Ours; grammar says what belongs there, not a corpus."""


class Judge:
    """Says of a query whether it is empty under the rule, and why.

    `counts` has the corpus's words by their own spelling, `num_words` is their sum.
    """

    def __init__(self, config: EmptyQueriesConfig, counts: Mapping[str, int], num_words: int) -> None:
        self._functions = FUNCTION_WORDS[config.function_words]
        self._counts = counts
        self._num_words = num_words
        self._max_count = config.max_share * num_words if num_words >= config.min_corpus_words else float("inf")

    def reason(self, query: str) -> tuple[str, str] | None:
        """lone_letter or near_stop_word, with a detail; null for a query that says something.

        A lone letter or digit in a script with spaces is the whole query. A near stop word is one that is frequent or a
        function word; of several words all are, and none but the first has a capital (The Who is a name).
        Function words count in lower case and with a capital, not in capitals (IT, US, WHO).
        """
        found = words(query)
        if len(found) == 1 and _is_lone(found[0]):
            return "lone_letter", "a letter or digit alone"
        if not found or any(word != word.lower() for word in found[1:]):
            return None
        details = [self._is_near(word) for word in found]
        return ("near_stop_word", ", ".join(dict.fromkeys(details))) if all(details) else None

    def _is_near(self, word: str) -> str:
        count = self._counts.get(word, 0)
        if count >= self._max_count:
            return f"{count / self._num_words:.2%} of all counted words"
        is_written_small = word[1:] == word[1:].lower()
        return "a function word" if is_written_small and word.lower() in self._functions else ""


def _is_lone(word: str) -> bool:
    letters = [character for character in word if unicodedata.category(character)[0] != "M"]
    # In scripts without spaces a letter is a word of its own in the middle of others, too.
    return len(letters) == 1 and len(words(f"{letters[0]}{letters[0]}")) == 1
