-- Matches by rank of the query, before and after balancing: the curve of the data card.
SELECT rank, matched, selected, contained
FROM (SELECT *, row_number() OVER (ORDER BY matched DESC, query_id) AS rank FROM query_counts WHERE matched > 0)
ORDER BY rank
