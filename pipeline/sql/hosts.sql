-- Hosts with the most planned pairs, and how many of them arrived.
SELECT regexp_extract(url, '^[a-zA-Z]+://(?:[^/@]*@)?([^/:?#]+)', 1) AS host, count(*) AS pairs,
       count(*) FILTER (status = 'success') AS fetched,
       round(100.0 * count(*) FILTER (status = 'success') / count(*), 1) AS fetched_percent
FROM fetched
GROUP BY host
ORDER BY pairs DESC, host
LIMIT 50
