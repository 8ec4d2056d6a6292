"""Models that several processes run together: shards of parameters, collectives, and one decision on every rank."""
