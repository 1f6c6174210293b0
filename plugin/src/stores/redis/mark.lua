-- Looks at the marker of a node's data.
-- KEYS   [1] the marker
-- ARGV   its value where there is none · how long it is kept (ms)
-- Reply  the value
return marker(KEYS[1], ARGV[1], tonumber(ARGV[2]))
