"""What responsible use asks for (Croissant RAI 1.0, mlcommons.org/croissant/RAI), told from the set's own facts.

Each property that the facts or the people say nothing about stays away: none is made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.config import WitConfig
from pipeline.questions.card.answers import Row
from pipeline.releasing.facts import Facts

__all__ = ["RAI", "list_of", "rai_of"]

RAI = "http://mlcommons.org/croissant/RAI/1.0"
_REASONS = 12


def rai_of(facts: Facts) -> Mapping[str, str | Sequence[str]]:
    """Property, without its prefix -> a text, or several."""
    said = facts.said
    found: dict[str, str | Sequence[str] | None] = {
        "dataCollection": _collection(facts),
        "dataCollectionType": ["Web Scraping"],
        "dataCollectionTimeFrame": list(facts.days),
        "dataCollectionRawData": _raw(facts),
        "dataCollectionMissingData": _missing(facts),
        "dataPreprocessingProtocol": list(_protocol(facts)),
        "machineAnnotationTools": list(_tools(facts)),
        "dataBiases": [*said.biases, *_biases(facts)],
        "dataLimitations": list(_limitations(facts)),
        "personalSensitiveInformation": list(_personal(facts)),
        "dataUseCases": list(said.use_cases),
        "dataSocialImpact": said.social_impact,
        "dataReleaseMaintenancePlan": _maintenance(facts),
    }
    return {name: told for name, told in found.items() if told}


def _collection(facts: Facts) -> str:
    links = facts.card.links_left[0]["in"] if facts.card.links_left else None
    parts = [
        "Links to pictures with their text were taken from the sources, and the pictures requested from their hosts."
    ]
    if links and not facts.card.header.is_subset:
        parts.append(f"{links:,} links became {facts.samples:,} samples.")
    if facts.card.respected:
        parts.append(f"Honoured: {'; '.join(facts.card.respected)}.")
    if facts.card.consent:
        refused = ", ".join(_refused(row) for row in facts.card.consent)
        parts.append(f"Turned away since their owners, or a block list, said no: {refused}.")
    if facts.with_licence:
        parts.append(f"The pages of {facts.with_licence:,} samples state a licence (column license).")
    return " ".join(parts)


def _refused(row: Row) -> str:
    of = f" {row['signal']}" if row["reason"] == "opt_out" and row.get("signal") else ""  # other reasons are the signal
    return f"{int(row['rejected']):,} {row['reason']}{of} ({row['stage']})"


def _raw(facts: Facts) -> str | None:
    told = facts.said.sources
    if facts.config is None:
        return told
    sources = facts.config.sources
    shown = ", ".join(sources[:10]) + (f" and {len(sources) - 10:,} more" if len(sources) > 10 else "")
    read = "".join(
        f"; {row['kept']:,} of {row['in']:,} {row['unit']}s read" for row in facts.card.read if row["unit"] == "source"
    )
    return f"{'' if told is None else f'{told}: '}{shown} ({facts.config.source_format}){read}"


def _missing(facts: Facts) -> str | None:
    rows = facts.card.rejections[:_REASONS]
    if not rows:
        return None
    told = "; ".join(f"{row['count']:,} {row['unit']}s {row['reason']} ({row['stage']})" for row in rows)
    return f"Turned away, the most common reasons first: {told}. ledger.json has all of them."


def _protocol(facts: Facts) -> Iterator[str]:
    terms = dict(facts.card.header.facts)
    for name in ("subset of", "languages", "query list", "balancing", "t, pairs a query", "one pair per", "pictures"):
        if name in terms:
            yield f"{name}: {terms[name]}"
    yield from list_of(facts)


_QUERY_SOURCES = {
    "unigrams": "unigrams: words that an encyclopedia uses often (Wikipedia's text is CC-BY-SA-4.0)",
    "bigrams": "bigrams: pairs of words that it uses together (the same)",
    "titles": "titles: names of its articles, the most viewed first (the same)",
    "wordnet": "wordnet: lemmas of WordNet 3.x (Princeton University, WordNet licence)",
    "file": "file: a list of the makers' own",
}
"""Source of queries (`query_list/rank.py`) -> what it is, and whose."""


def list_of(facts: Facts) -> Iterator[str]:
    """Where the queries come from, with counts."""
    for row in facts.card.query_sources:
        known = _QUERY_SOURCES.get(row["source"], f"{row['source']}: as whoever made the list called it")
        yield f"{row['queries']:,} queries of {known}; {row['with_match']:,} have a match"


def _tools(facts: Facts) -> Iterator[str]:
    if facts.config is not None:
        yield "fastText lid.176.ftz, for the language of captions"
        yield "word lists of pyspellchecker, for captions that the model alone would turn away"


def _biases(facts: Facts) -> Iterator[str]:
    header = facts.card.header
    if header.targets:
        yield f"Only captions in {', '.join(header.targets)} are kept, as a language model and word lists tell."
    if header.t is not None:
        yield (
            f"A query selects {header.limit} {header.t:,} pairs: frequent subjects are cut, rare ones kept, and what "
            "no query of the list names is not there."
        )
    shares = facts.card.host_shares
    if shares is not None and shares["hosts"] > 10:
        yield f"The 10 hosts with the most pairs have {shares['top_10_percent']} % of the planned pairs."


def _limitations(facts: Facts) -> Iterator[str]:
    yield "Captions are what pages say of their pictures: some are wrong, vague or advertisements. Nobody read them."
    yield "No filter for nudity, violence or hate is built in." + _filters(facts.config)
    if not facts.said.pictures:
        yield "Links go dead, and what they serve changes: sha256 tells whether a picture is the one that was seen."
    if facts.config is not None and facts.config.image_dedup.mode == "off":
        yield "Pictures that look alike under other URLs were not removed; phash finds them."


def _filters(config: WitConfig | None) -> str:
    scores = [] if config is None else [score.column for score in config.filters.scores]
    return f" Scores that pairs had to pass: {', '.join(scores)}." if scores else ""


def _personal(facts: Facts) -> Iterator[str]:
    yield "Pictures may show people, and captions may name them; nobody asked them."
    if facts.with_pii is not None:
        yield (
            f"{facts.with_pii:,} captions hold an e-mail address, a telephone number or another number of a person, as "
            "far as rules find them; the column pii names the kinds."
        )
    else:
        yield "Captions were not searched for e-mail addresses and numbers of persons."
    if facts.said.contact:
        yield f"Who wants to be taken out asks {facts.said.contact}."


def _maintenance(facts: Facts) -> str | None:
    parts = [] if facts.said.maintenance is None else [" ".join(facts.said.maintenance.split())]
    if facts.removals:
        parts.append(
            f"removed/ has {facts.removals:,} deltas that say what went from the set, for copies of it to follow."
        )
    if facts.said.supersedes is not None:
        parts.append("release.json lists the releases that this one supersedes.")
    return " ".join(parts) or None
