"""What a published set is, and what is made of one: subsets, joined columns, lists."""
