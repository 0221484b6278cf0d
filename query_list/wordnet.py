"""WordNet lemmas: "all WordNet synsets not already in the query list" (CLIP, section 2.2).

Reads the index and data files of WordNet 3.x (formats: wndb(5WN)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from configs.load import ConfigError
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
    root that is not in the index.
    """
    entries = [entry for path in index for entry in _read_index(path)]
    wanted = _under(config.roots, entries, data) if config.roots else None
    tagged: dict[str, int] = {}
    senses: dict[str, int] = {}
    for entry in entries:
        offsets = [o for o in entry.offsets if wanted is None or (entry.pos, o) in wanted]
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
            raise ConfigError(f"wordnet.roots: {root!r} is not in the index; write LEMMA.POS.SENSE, as in disease.n.1")
        open_ends.append((entry.pos, entry.offsets[int(sense) - 1]))
    found: set[tuple[str, int]] = set()
    while open_ends:
        synset = open_ends.pop()
        if synset not in found:
            found.add(synset)
            open_ends.extend(below.get(synset, ()))
    return found


def _lines(path: str) -> Iterator[tuple[int, list[str]]]:
    with open_text_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith(b" "):
                yield number, line.decode("utf-8", "replace").split()
