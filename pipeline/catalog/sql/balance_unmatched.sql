-- Queries that no caption contains, in the list's order.
SELECT query, source
FROM query_counts JOIN queries USING (query_id)
WHERE matched = 0
ORDER BY query_id
LIMIT 50
