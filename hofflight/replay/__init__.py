"""OFFLINE: the log replayed by the same definitions: training data, and the proof of parity."""
