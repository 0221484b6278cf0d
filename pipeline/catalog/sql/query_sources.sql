-- The query list by where its queries come from: how many there are, how many match, how many of these are cut at t; the
-- pairs that they select in the finished set (in the plan, before there is one).
SELECT source, count(*) AS queries, count(*) FILTER (matched > 0) AS with_match,
       round(100.0 * count(*) FILTER (matched > 0) / count(*), 1) AS with_match_percent,
       count(*) FILTER (matched > query_counts.selected) AS cut,
       sum(coalesce(final_counts.selected, query_counts.selected))::BIGINT AS selected
FROM query_counts JOIN queries USING (query_id) LEFT JOIN final_counts USING (query_id)
GROUP BY source
ORDER BY queries DESC, source
