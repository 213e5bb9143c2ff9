"""STORED FEATURES: the newest row of every key, in LMDB or Redis, and how requests look it up."""
