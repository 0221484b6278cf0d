-- The balance in six figures, beside those published for CLIP's data as MetaCLIP rebuilt it (1.6e9 English pairs).
WITH per_query AS (
    SELECT count(*) AS queries, sum(matched) AS matches, sum(selected) AS selections,
           count(*) FILTER (matched = 0) AS unmatched,
           count(*) FILTER (matched > selected) AS head, coalesce(sum(matched) FILTER (matched > selected), 0) AS head_matches
    FROM query_counts
), per_pair AS (
    SELECT sum(rows_in) AS pairs, sum(kept) AS kept FROM ledger WHERE stage = 'balance'
)
SELECT unnest([
    {'figure': 'matches a text', 'here': (round(matches / nullif(pairs, 0), 2))::DOUBLE, 'published': 3.54::DOUBLE},
    {'figure': 'matches in head queries, %', 'here': (round(100 * head_matches / nullif(matches, 0), 1))::DOUBLE, 'published': 94.4::DOUBLE},
    {'figure': 'head queries, %', 'here': (round(100 * head / nullif(queries, 0), 1))::DOUBLE, 'published': 3.2::DOUBLE},
    {'figure': 'pairs kept, %', 'here': (round(100 * kept / nullif(pairs, 0), 1))::DOUBLE, 'published': 25.0::DOUBLE},
    {'figure': 'selections a kept pair', 'here': (round(selections / nullif(kept, 0), 2))::DOUBLE, 'published': 1.6::DOUBLE},
    {'figure': 'queries without a match, %', 'here': (round(100 * unmatched / nullif(queries, 0), 1))::DOUBLE, 'published': 22.8::DOUBLE}
], recursive := true)
FROM per_query, per_pair
