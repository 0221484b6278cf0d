-- What the finished set has more than once: different URLs, files, looks and captions among its samples.
WITH of_set AS (
    SELECT count(*) AS samples, count(DISTINCT url_id) AS urls, count(DISTINCT hash(sha256)) AS files,
           count(DISTINCT phash) AS looks, count(DISTINCT hash(caption)) AS captions
    FROM published
)
SELECT what, different, samples - different AS repeated, round(100.0 * repeated / nullif(samples, 0), 2) AS repeated_percent
FROM (SELECT samples, unnest([
    {'what': 'picture URLs', 'different': urls},
    {'what': 'files (SHA-256)', 'different': files},
    {'what': 'looks (perceptual hash)', 'different': looks},
    {'what': 'captions', 'different': captions}
], recursive := true) FROM of_set)
