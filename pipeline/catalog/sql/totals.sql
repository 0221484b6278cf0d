-- The finished set in one line: samples, bytes of their pictures as stored, shards; the list's queries, and those with a
-- match.
SELECT (SELECT count(*) FROM published) AS samples,
       (SELECT coalesce(sum(num_bytes), 0)::BIGINT FROM published) AS picture_bytes,
       (SELECT count(*) FROM shards) AS shards,
       (SELECT count(*) FROM queries) AS queries,
       (SELECT count(*) FROM query_counts WHERE matched > 0) AS queries_matched
