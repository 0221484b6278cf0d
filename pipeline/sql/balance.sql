-- Balance per query: pairs before, pairs selected by the query, selected pairs that contain it. The head first.
SELECT query, source, matched, selected, contained, round(100.0 * selected / matched, 1) AS selected_percent
FROM query_counts JOIN queries USING (query_id)
WHERE matched > 0
ORDER BY matched DESC, query
LIMIT 50
