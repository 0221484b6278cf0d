-- How the planned pairs lie over the hosts: the share of the largest ones, and the long tail.
WITH ranked AS (SELECT host, pairs, row_number() OVER (ORDER BY pairs DESC, host) AS rank FROM hosts)
SELECT count(*) AS hosts, sum(pairs)::BIGINT AS pairs,
       round(100.0 * sum(pairs) FILTER (rank <= 1) / sum(pairs), 1) AS top_1_percent,
       round(100.0 * sum(pairs) FILTER (rank <= 10) / sum(pairs), 1) AS top_10_percent,
       round(100.0 * sum(pairs) FILTER (rank <= 100) / sum(pairs), 1) AS top_100_percent,
       count(*) FILTER (pairs = 1) AS hosts_with_one_pair
FROM ranked
