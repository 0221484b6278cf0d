-- Shorter side of the pictures as served, in steps of 64 pixels.
SELECT least(original_width, original_height) // 64 * 64 AS shorter_side_from, count(*) AS samples,
       round(avg(num_bytes)) AS mean_stored_bytes
FROM published
GROUP BY shorter_side_from
ORDER BY shorter_side_from
