-- What each query got in the end: planned (with its reserve), arrived, selected, contained, and how many it is short.
SELECT query, source, planned, survived, selected, contained, short
FROM final_counts JOIN queries USING (query_id)
WHERE planned > 0
ORDER BY short DESC, planned DESC, query
LIMIT 50
