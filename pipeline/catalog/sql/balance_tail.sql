-- The tail: queries with the fewest matches, of those that have any, and what of them is in the finished set (in the
-- plan, before there is one).
SELECT query, source, matched, coalesce(final_counts.selected, query_counts.selected) AS selected,
       coalesce(final_counts.contained, query_counts.contained) AS contained
FROM query_counts JOIN queries USING (query_id) LEFT JOIN final_counts USING (query_id)
WHERE matched > 0
ORDER BY matched, query
LIMIT 50
