-- Findings, the gravest first.
WITH {{findings}}
chosen AS (
  SELECT findings.*, CASE severity WHEN 'grave' THEN 1 WHEN 'warning' THEN 2 WHEN 'notice' THEN 3 ELSE 4 END AS rank_of
  FROM findings
  WHERE {{condition}} AND {{within}})
SELECT severity, kind, host, time, guest, uuid, mac, device_kind, path, dev, text
FROM chosen
ORDER BY rank_of, time, host, kind, text, guest NULLS FIRST, uuid NULLS FIRST, mac NULLS FIRST, path NULLS FIRST
