"""Building: networks to engines, the cache of built engines, and building again with new weights."""
