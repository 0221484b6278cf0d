-- Balance per query: pairs before, pairs selected by the query, selected pairs that contain it, and the same of the
-- finished set. The head first.
SELECT query, source, matched, query_counts.selected, query_counts.contained,
       round(100.0 * query_counts.selected / matched, 1) AS selected_percent,
       final_counts.selected AS final_selected, final_counts.contained AS final_contained
FROM query_counts
JOIN queries USING (query_id)
LEFT JOIN final_counts USING (query_id)
WHERE matched > 0
ORDER BY matched DESC, query
LIMIT 50
