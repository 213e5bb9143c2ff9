"""WHAT TRAVELS: schemas, Arrow IPC, and the metadata beside it; the same bytes everywhere."""
