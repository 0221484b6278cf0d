-- of the unique pairs how many the archives of robots.txt could judge without a request, and how many these forbid
SELECT covered, sum(pairs)::BIGINT AS pairs, sum(rejected)::BIGINT AS rejected,
       round(sum(pairs) / greatest(sum(sum(pairs)) OVER (), 1), 4) AS share
FROM robots_coverage
GROUP BY covered
HAVING sum(pairs) > 0
ORDER BY covered DESC
