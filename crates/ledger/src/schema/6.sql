-- What the next supervisor of a guest compares its filters with.

-- The rules that were set, as JSON: the files that they were made of may be others by now. NULL: there is no filter, or
-- an older taptrail set it.
ALTER TABLE interface ADD COLUMN rules TEXT;
