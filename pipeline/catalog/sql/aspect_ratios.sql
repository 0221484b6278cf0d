-- Width by height of the pictures as served, in quarters of a doubling; 8 and 0.125 stand for more and less.
SELECT greatest(least(round(4 * log2(original_width / original_height)), 12), -12)::INTEGER AS quarter_doublings,
       round(2 ** (quarter_doublings / 4), 3) AS width_by_height, count(*) AS samples
FROM published
WHERE original_width > 0 AND original_height > 0
GROUP BY quarter_doublings
ORDER BY quarter_doublings
