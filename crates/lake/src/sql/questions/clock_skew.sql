-- Hosts with records of a time that had not come yet, by the clock of the object store: their own
-- clocks are ahead.
WITH {{coverage}}
latest AS (SELECT host, max(until) AS latest_record FROM coverage WHERE {{condition}} GROUP BY host)
SELECT host, latest_record
FROM latest
WHERE latest_record > {{at_last}} + {{longer_than}}
ORDER BY host
