"""WordNet lemmas: "all WordNet synsets not already in the query list" (CLIP, section 2.2).

Reads the index and data files of WordNet 3.x (formats: wndb(5WN)).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from configs.load import ConfigError
from configs.near import near
from pipeline.errors import InputError
from query_list.candidate import Candidate
from query_list.config import WordnetConfig
from query_list.inputs import open_text_lines

__all__ = ["wordnet"]

_HYPONYMS = ("~", "~i")  # pointer symbols: kinds of, instances of


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    lemma: str
    pos: str
    tagged_senses: int
    offsets: tuple[int, ...]


def wordnet(index: Sequence[str], data: Sequence[str], config: WordnetConfig) -> list[Candidate]:
    """Candidates from the files `index` and `data`, by tagged senses, then senses, then text.

    A lemma's underscores become spaces. Raises InputError for files of another format, ConfigError for a
    root that is not in the index, with the nearest that is.
    """
    entries = [entry for path in index for entry in _read_index(path)]
    wanted = _under(config.roots, entries, data) if config.roots else None
    tagged: dict[str, int] = {}
    senses: dict[str, int] = {}
    for entry in entries:
        # The index has the senses in the order of their use (wndb(5WN)).
        offered = entry.offsets[:1] if config.senses == "first" else entry.offsets
        offsets = [o for o in offered if wanted is None or (entry.pos, o) in wanted]
        if offsets:
            text = entry.lemma.replace("_", " ")
            tagged[text] = tagged.get(text, 0) + entry.tagged_senses
            senses[text] = senses.get(text, 0) + len(offsets)
    ranked = sorted((-tagged[text], -senses[text], text) for text in senses)
    return [Candidate(query=text) for _, _, text in ranked]


def _read_index(path: str) -> Iterator[_Entry]:
    """Lines `lemma pos synset_cnt p_cnt [symbol...] sense_cnt tagsense_cnt offset...`; licence lines are indented."""
    for number, fields in _lines(path):
        try:
            num_synsets, num_pointers = int(fields[2]), int(fields[3])
            tagged = int(fields[5 + num_pointers])
            offsets = tuple(int(field) for field in fields[6 + num_pointers : 6 + num_pointers + num_synsets])
            if len(offsets) != num_synsets or len(fields[1]) != 1:
                raise ValueError
        except (ValueError, IndexError):
            raise InputError(f"{path}: line {number} is not of a WordNet index file; set wordnet.index") from None
        yield _Entry(lemma=fields[0], pos=fields[1], tagged_senses=tagged, offsets=offsets)


def _under(roots: Sequence[str], entries: Sequence[_Entry], data: Sequence[str]) -> set[tuple[str, int]]:
    """(part of speech, offset) of every synset at or below the roots."""
    if not data:
        raise ConfigError("wordnet.roots needs wordnet.data: the data.* files hold what lies under a synset")
    by_name = {(entry.lemma, entry.pos): entry for entry in entries}
    below: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for path in data:
        for number, fields in _lines(path):
            try:
                pos = "a" if fields[2] == "s" else fields[2]
                at = 4 + 2 * int(fields[3], 16)
                pointers = [fields[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(int(fields[at]))]
                kinds = [(p[2], int(p[1])) for p in pointers if p[0] in _HYPONYMS]
                below[(pos, int(fields[0]))] = kinds
            except (ValueError, IndexError):
                raise InputError(f"{path}: line {number} is not of a WordNet data file; set wordnet.data") from None
    open_ends: list[tuple[str, int]] = []
    for root in roots:
        lemma, pos, sense = (["", "", "", *root.rsplit(".", 2)])[-3:]
        entry = by_name.get((lemma.lower().replace(" ", "_"), pos))
        if entry is None or not sense.isdigit() or not 1 <= int(sense) <= len(entry.offsets):
            raise ConfigError(f"wordnet.roots: {root!r} is not in the index; {_meant(root, by_name)}")
        open_ends.append((entry.pos, entry.offsets[int(sense) - 1]))
    found: set[tuple[str, int]] = set()
    while open_ends:
        synset = open_ends.pop()
        if synset not in found:
            found.add(synset)
            open_ends.extend(below.get(synset, ()))
    return found


def _meant(root: str, by_name: Mapping[tuple[str, str], _Entry]) -> str:
    """The end of a line about a `root` that is none: which of the names in the index is nearest."""
    parts = root.lower().replace(" ", "_").rsplit(".", 2)
    pos = parts[1] if len(parts) == 3 else "n"
    if (entry := by_name.get((parts[0], pos))) is not None and len(parts) == 3:
        senses = f"senses 1 to {len(entry.offsets)}" if len(entry.offsets) > 1 else "one sense"
        return f"{entry.lemma}.{pos} has {senses} there: write {entry.lemma}.{pos}.1"
    # Of the 117,798 nouns only those of the same letter: to look at all takes seconds.
    lemma = near(parts[0], [lemma for lemma, of in by_name if of == pos and lemma[:1] == parts[0][:1]])
    form = "write LEMMA.POS.SENSE, as in disease.n.1"
    return f"did you mean {lemma}.{pos}.1? ({form})" if lemma else form


def _lines(path: str) -> Iterator[tuple[int, list[str]]]:
    with open_text_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith(b" "):
                yield number, line.decode("utf-8", "replace").split()
