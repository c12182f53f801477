-- Devices that were opened for a guest, and that its QEMU never got.
WITH {{held}}
whole AS (
  SELECT *
  FROM held
  WHERE held.last AND state = 'never-granted' AND {{condition}})
SELECT host, guest, uuid, mac, kind, path, dev, opened, released, certainty
FROM whole
WHERE {{overlaps}}
ORDER BY host, opened NULLS FIRST, guest, uuid, mac, kind, path, dev NULLS FIRST
