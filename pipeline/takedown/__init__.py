"""Taking samples out of a published set: what is asked for, what goes, the delta that tells others of it.

    FILEs of URLs, hosts, hashes, uids --asked.py--> Removals --matching.py--> samples of the set
    samples --remove.py--> OUT/removed/WHEN-ID.json (begun), shards/tombstones.json     from here on they are removed
    compact: shards (blank.py, published.py), work/ (work.py), ledger --> the delta is whole, and signed if asked

On a disk `remove` compacts at once, in place; in a bucket `compact` does it when it is asked to. All of it can be done
again after a kill: the delta that was begun says what is left.
"""
