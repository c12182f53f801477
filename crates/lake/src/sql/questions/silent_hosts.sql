-- Hosts of which there are no records for longer than a time; without `until`, for those that have
-- not come back.
WITH {{coverage}}
spans AS (
  SELECT host,
    max(until) OVER (PARTITION BY host ORDER BY since, until ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS reached,
    lead(since, 1, {{never}}) OVER (PARTITION BY host ORDER BY since, until) AS resumed
  FROM coverage
  WHERE what = 'span' AND since < {{end}} AND {{condition}})
SELECT host, reached AS since, CASE WHEN resumed < {{never}} THEN resumed END AS until
FROM spans
WHERE resumed > {{start}} AND least(resumed, {{end}}) > reached + {{longer_than}}
ORDER BY host, since, until NULLS FIRST
