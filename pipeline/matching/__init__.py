"""Which queries does a caption contain: the rules, their tables and the kernel that applies them.

    queries --normal form--> tokens --64-bit hashes--> trie in one flat table --save/open--> memory-mapped
    captions --------------> tokens --64-bit hashes--> walk the trie --> check every hit letter by letter

docs/matching.md states the rules for users.
"""
