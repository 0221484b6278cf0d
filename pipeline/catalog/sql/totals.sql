-- The finished set in one line: samples, the URLs of their pictures, captions that differ, bytes as stored, shards; the
-- list's queries, and those with a match.
SELECT (SELECT count(*) FROM published) AS samples,
       (SELECT count(DISTINCT url_id) FROM published) AS pictures,
       (SELECT count(DISTINCT hash(caption)) FROM published) AS captions,
       (SELECT coalesce(sum(num_bytes), 0)::BIGINT FROM published) AS picture_bytes,
       (SELECT count(*) FROM shards) AS shards,
       (SELECT count(*) FROM queries) AS queries,
       (SELECT count(*) FROM query_counts WHERE matched > 0) AS queries_matched
