"""Many training runs at a time, each in a process of its own: what the quickstart and the sweeps share."""
