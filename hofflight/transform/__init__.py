"""PURE: batch + state -> batch + state. No clock, thread, socket or file."""
