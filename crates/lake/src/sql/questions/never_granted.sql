-- Devices that were opened for a guest, and that its QEMU never got.
WITH {{held}}
whole AS (
  SELECT * FROM (
    SELECT held.*, row_number() OVER (PARTITION BY {{key}} ORDER BY day DESC) AS age
    FROM held
    WHERE state = 'never-granted' AND {{condition}}) AS numbered
  WHERE age = 1)
SELECT host, guest, uuid, mac, kind, path, dev, opened, released, certainty
FROM whole
WHERE {{overlaps}}
ORDER BY host, opened NULLS FIRST, guest, uuid, mac, kind, path, dev NULLS FIRST
