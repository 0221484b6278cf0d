-- The curve of the data card: pairs of each query before balancing, by rank; those that it selects, and those that contain
-- it, in the finished set (in the plan, before there is one).
SELECT row_number() OVER (ORDER BY query_counts.matched DESC, query_id) AS rank, query_counts.matched,
       coalesce(final_counts.selected, query_counts.selected) AS selected,
       coalesce(final_counts.contained, query_counts.contained) AS contained
FROM query_counts LEFT JOIN final_counts USING (query_id)
WHERE query_counts.matched > 0
ORDER BY rank
