-- Hosts of which it is not known what was held at a time: `not-covered`, if there are no records of
-- all of it, and `no-start`, if a guest may have run since before the records begin.
WITH {{coverage}}
marked AS (
  SELECT host, what, since, until,
    max(until) OVER (PARTITION BY host, what ORDER BY since, until ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached_before
  FROM coverage
  WHERE {{condition}}),
hosts AS (
  SELECT host,
    min(CASE WHEN what = 'span' THEN since END) AS records_from,
    max(CASE WHEN what = 'span' THEN until END) AS records_until,
    max(CASE WHEN what = 'span' AND since <= {{at_last}} AND (reached_before IS NULL OR since > reached_before) THEN since END) AS begun,
    max(CASE WHEN what = 'span' AND since <= {{at_last}} THEN until END) AS reached,
    max(CASE WHEN what = 'gap' AND since <= {{at_last}} THEN until END) AS lost_until,
    max(CASE WHEN what = 'start' AND since <= {{at_first}} THEN since END) AS started
  FROM marked
  GROUP BY host),
judged AS (
  SELECT host, records_from, records_until, CASE
    WHEN begun <= {{at_first}} AND reached >= {{at_last}} AND (lost_until IS NULL OR lost_until <= {{at_first}}) THEN CASE
      WHEN begun <= started AND (lost_until IS NULL OR lost_until <= started) THEN NULL
      ELSE 'no-start' END
    ELSE 'not-covered' END AS why
  FROM hosts)
SELECT host, why, records_from, records_until
FROM judged
WHERE why IS NOT NULL
ORDER BY host
