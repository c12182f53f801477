-- How many findings of each kind there are, and on how many hosts, the gravest first.
WITH {{findings}}
chosen AS (SELECT severity, kind, host FROM findings WHERE {{condition}} AND {{within}}),
counted AS (
  SELECT severity, kind, count(*) AS total, count(DISTINCT host) AS hosts,
    CASE severity WHEN 'grave' THEN 1 WHEN 'warning' THEN 2 WHEN 'notice' THEN 3 ELSE 4 END AS rank_of
  FROM chosen
  GROUP BY severity, kind)
SELECT severity, kind, total, hosts
FROM counted
ORDER BY rank_of, severity, kind
