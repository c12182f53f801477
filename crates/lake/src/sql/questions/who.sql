-- Which guests held an interface's address at a time, and where: all that is known of these holdings.
WITH {{held}}
whole AS (
  SELECT *
  FROM held
  WHERE held.last AND {{condition}}),
judged AS (
  SELECT whole.*, CASE
    WHEN state IN ('held', 'released') AND begun < ended AND begun <= {{at_last}} AND ended > {{at_first}} THEN 'yes'
    WHEN {{possibly}} THEN 'possibly'
  END AS holds
  FROM whole)
SELECT host, guest, uuid, mac, kind, path, dev, opened, granted, released, last_seen, state, certainty, holds
FROM judged
WHERE holds IS NOT NULL
ORDER BY host, opened NULLS FIRST, granted NULLS FIRST, guest, uuid, mac, kind, path, dev NULLS FIRST
